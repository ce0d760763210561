"""What layers keep beside keys and values, kept in the cache objects of transformers.

State-space and convolution layers fold all they have read into a state. It cannot be cut back to an
earlier token, and nothing may be padded into it, so every row has a cache object of its own and is
encoded alone: exact, and slower than rows that share a buffer (`kv_cache.py`).

To go back, as when a chat template drops the reasoning of an earlier answer or when a text was only
scored, a row keeps copies of its state before the last token of prompts; what follows the nearest
one is encoded again.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from .rows import CacheRow, Rows

_COPIES = 3
"""Copies that a row keeps: of the end of the last prompt and of the one before, and of what was
there before a text was scored.
"""
_NAMES = ("past_key_values", "cache_params")
"""What decoders call the cache that they are given."""


@dataclass(slots=True, eq=False)
class StateRow(CacheRow):
    """A row whose state is a cache object, None where the nearest copy is to be taken up again."""

    state: Any = None
    copies: list[tuple[int, Any]] = field(default_factory=list)
    """(tokens, state), the longest last."""

    def keep(self, length: int) -> None:
        """Go back to the last copy of no more than so many tokens."""
        if 0 < len(self.tokens) <= length:
            return
        self.state = None
        self.copies = [(tokens, state) for tokens, state in self.copies if tokens <= length]
        del self.tokens[self.copies[-1][0] if self.copies else 0 :]

    def remember(self) -> None:
        """Copy the state as it is now."""
        if self.state is not None and self.tokens and self._copied < len(self.tokens):
            self.copies.append((len(self.tokens), copy.deepcopy(self.state)))
            del self.copies[:-_COPIES]

    @property
    def _copied(self) -> int:
        return self.copies[-1][0] if self.copies else 0


class StateCache(Rows[StateRow]):
    """Rows whose states are cache objects of transformers, and the passes that extend them.

    Args:
        model: a causal language model; its parameters are used where they are.
        dtype: autocast to this type, or None to compute in the parameters' own.

    Attributes: singly: encode what is new in a row that is not empty token by token, for models
        that go on from a state by one token only. positions: the decoder is told positions.

    Raises:
        ValueError: the model's decoder takes no cache object.
    """

    kind = "states, in transformers' own cache objects: one conversation at a time, slower"

    def __init__(self, model: Any, dtype: torch.dtype | None = None) -> None:
        super().__init__(model, dtype)
        self.singly = False
        taken = inspect.signature(self.decoder.forward).parameters
        self.positions = "position_ids" in taken
        name = next((name for name in _NAMES if name in taken), None)
        if name is None:
            raise ValueError("its decoder takes no cache")
        self._name = name

    @property
    def stores(self) -> bool:
        """Tell whether the decoder has been given anything to keep."""
        return any(row.state is not None for row in self.rows)

    def _row(self, index: int) -> StateRow:
        return StateRow(index)

    def _emptied(self) -> None:
        """Do nothing: a state goes with its row."""

    def to_front(self, rows: Sequence[StateRow]) -> None:
        """Do nothing: rows are encoded one by one."""

    def _copy(self, pairs: Sequence[tuple[StateRow, StateRow]]) -> None:
        for a, b in pairs:
            b.tokens[:], b.used = a.tokens, a.used
            b.state, b.copies = copy.deepcopy(a.state), list(a.copies)

    def extend(
        self, rows: Sequence[StateRow], new: Sequence[Sequence[int]], wanted: Sequence[int]
    ) -> list[Tensor]:
        """Add tokens to rows; states are copied on the way, to come back to.

        Those are the states before, and of a prompt the one before its last token: what is sampled
        or scored after it begins there.
        """
        for row in rows:
            row.remember()
        prompts = [i for i, ids in enumerate(new) if wanted[i] == 1 and len(ids) > 1]
        if prompts:
            opened = [rows[i] for i in prompts]
            super().extend(opened, [new[i][:-1] for i in prompts], [1] * len(prompts))
            for row in opened:
                row.remember()
        left = [ids[-1:] if i in prompts else ids for i, ids in enumerate(new)]
        return super().extend(rows, left, wanted)

    def encode(
        self, rows: Sequence[StateRow], new: Sequence[Sequence[int]], *, last: bool = False
    ) -> Tensor:
        """Add tokens to rows, one row after the other; see `Rows.encode`."""
        made = [self._encode(row, ids) for row, ids in zip(rows, new, strict=True)]
        if last:
            return torch.stack([hidden_LH[-1:] for hidden_LH in made])
        return torch.nn.utils.rnn.pad_sequence(made, batch_first=True)

    def _encode(self, row: StateRow, ids: Sequence[int]) -> Tensor:
        """Add tokens to one row, and return their last hidden states [L, H]."""
        if row.state is None:
            row.state = (
                copy.deepcopy(row.copies[-1][1])
                if row.copies
                else DynamicCache(config=self.model.config)
            )
        one_by_one = self.singly and row.tokens
        pieces = [[token] for token in ids] if one_by_one else [list(ids)]
        made = [self._pass(row, piece) for piece in pieces]
        return made[0] if len(made) == 1 else torch.cat(made)

    def _pass(self, row: StateRow, ids: list[int]) -> Tensor:
        start, given = len(row.tokens), {self._name: row.state}
        if self.positions:
            position_1L = torch.arange(start, start + len(ids), device=self.device)[None]
            given["position_ids"] = position_1L
        output = self.decoder(
            input_ids=torch.tensor([ids], device=self.device), use_cache=True, **given
        )
        self.clock += 1
        row.tokens.extend(ids)
        row.used = self.clock
        hidden_LH: Tensor = output.last_hidden_state[0]
        return hidden_LH
