"""Rows: what conversations keep between forward passes, and the passes that extend it.

Every conversation owns a `CacheRow`, which knows the tokens that are stored for it. What is stored
is the business of a subclass of `Rows`: keys and values in one buffer (`kv_cache.py`), or the cache
objects of transformers (`state_cache.py`)::

    row = cache.take()
    with cache.inference():
        [hidden_NH] = cache.extend([row], [[5, 6, 7]], [1])     # positions 0, 1, 2
        [hidden_NH] = cache.extend([row], [[8]], [1])           # position 3; sees the other three
    row.keep(2)                                                 # as if 7 and 8 had never been
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from .head import Head
from .positions import exact_positions, rope_depends_on_length
from .tricks import pays


@dataclass(slots=True, eq=False)
class CacheRow:
    """A row of a cache."""

    index: int
    tokens: list[int] = field(default_factory=list)
    """Ids that are stored, at positions 0, 1, 2, ..."""
    used: int = 0
    """When it was last extended, in forward passes; the smallest is evicted first."""

    def cut(self, prompt: Sequence[int], limit: int) -> int:
        """Keep what is stored of `prompt`, at most its first `limit` tokens; return how many."""
        length = min(len(self.tokens), limit)
        if self.tokens[:length] != prompt[:length]:
            length = next(i for i in range(length) if self.tokens[i] != prompt[i])
        self.keep(length)
        return len(self.tokens)

    def keep(self, length: int) -> None:
        """Forget what is stored after so many tokens; of some models more has to go."""
        del self.tokens[length:]


Row = TypeVar("Row", bound=CacheRow)


class Rows(ABC, Generic[Row]):
    """Rows of a cache, and the forward pass of a model around them.

    Args:
        model: a causal language model; its parameters are used where they are.
        dtype: autocast to this type, or None to compute in the parameters' own.

    Attributes: budget: most padded tokens in one forward pass. clock: forward passes so far.
        max_positions: positions the model knows and encodes alike in every batch, or None if it
        does not say. kind: what is kept, in words.
    """

    kind: str

    def __init__(self, model: Any, dtype: torch.dtype | None = None) -> None:
        self.model, self.dtype = model, dtype
        self.decoder: Any = (
            model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
        )
        self.head = Head(model)
        self.max_positions = exact_positions(model.config)
        self.budget = pays(self.device).encoded
        self.rows: list[Row] = []
        self.clock = 0
        self._free: set[int] = set()
        self._modules: list[torch.nn.Module] = []
        # Frequencies computed in the forward pass stay behind in the trainer's module: no inference
        # tensors then.
        self._no_grad: Any = (
            torch.no_grad if rope_depends_on_length(model.config) else torch.inference_mode
        )
        self.refresh()

    @property
    def device(self) -> torch.device:
        """Return the device of the parameters."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    @property
    def cached_tokens(self) -> int:
        """Count the tokens stored over all rows."""
        return sum(len(row.tokens) for row in self.rows)

    # -- rows --------------------------------------------------------------------------------------

    @abstractmethod
    def _row(self, index: int) -> Row:
        """Make an empty row."""

    @abstractmethod
    def _emptied(self) -> None:
        """Free the memory: nothing is stored any more."""

    @abstractmethod
    def _copy(self, pairs: Sequence[tuple[Row, Row]]) -> None:
        """Copy what the first row of each pair holds to the second."""

    @abstractmethod
    def to_front(self, rows: Sequence[Row]) -> None:
        """Bring `rows` together, where that makes them faster to read."""

    @property
    @abstractmethod
    def stores(self) -> bool:
        """Tell whether layers have stored anything."""

    def take(self) -> Row:
        """Take an empty row: the lowest free one."""
        if not self._free:
            self._free.add(len(self.rows))
            self.rows.append(self._row(len(self.rows)))
        index = min(self._free)
        self._free.remove(index)
        row = self.rows[index] = self._row(index)
        return row

    def release(self, row: Row) -> None:
        """Give a row back; the memory is freed with the last one."""
        row.keep(0)
        self._free.add(row.index)
        if len(self._free) == len(self.rows):
            self.rows.clear()
            self._free.clear()
            self._emptied()

    def spoilt(self, rows: Sequence[Row]) -> None:
        """Forget what is stored in rows of a pass that failed: it may not be finite."""
        for row in rows:
            row.keep(0)

    def refresh(self) -> None:
        """Forget every stored token, because the weights changed; rows stay taken."""
        for row in self.rows:
            row.keep(0)
        self._emptied()
        self._modules = list(self.model.modules())

    # -- forward pass ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """Put the model into evaluation mode without gradients inside the block.

        The module's own mode is restored afterwards.
        """
        training = [m for m in self._modules if m.training] if self.model.training else []
        for module in training:
            module.__dict__["training"] = False
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self._no_grad())
                if self.dtype is not None:
                    stack.enter_context(torch.autocast(self.device.type, self.dtype))
                yield
        finally:
            for module in training:
                module.__dict__["training"] = True

    @abstractmethod
    def encode(
        self, rows: Sequence[Row], new: Sequence[Sequence[int]], *, last: bool = False
    ) -> Tensor:
        """Add tokens to rows; call it under `inference`.

        Args:
            rows: B distinct rows.
            new: the ids to append to each, at least one.
            last: only the hidden state of the last token of each is needed.

        Returns:
            Last hidden states [B, L, H], L the longest of `new` (those of shorter rows are
            meaningless at the end); or [B, 1, H] if `last`.
        """

    def extend(
        self, rows: Sequence[Row], new: Sequence[Sequence[int]], wanted: Sequence[int]
    ) -> list[Tensor]:
        """Add tokens to rows in as many forward passes as the budget of padded tokens asks for.

        Empty rows that get the same ids, as the opening prompts of a group do, are encoded once
        and copied, where that pays.

        Args:
            rows: B distinct rows.
            new: the ids to append to each, at least one.
            wanted: how many of its last hidden states are needed, at least one and at most as many
                as are new, [B].

        Returns:
            For each row its last hidden states, [wanted, H].
        """
        first: dict[tuple[int, tuple[int, ...]], int] = {}
        apart = not pays(self.device).openings
        like = [
            i if apart or row.tokens else first.setdefault((wanted[i], tuple(new[i])), i)
            for i, row in enumerate(rows)
        ]
        own = sorted(set(like))
        hidden = self._extend(
            [rows[i] for i in own], [new[i] for i in own], [wanted[i] for i in own]
        )
        self._copy([(rows[j], rows[i]) for i, j in enumerate(like) if i != j])
        kept = dict(zip(own, hidden, strict=True))
        return [kept[j] for j in like]

    def _extend(
        self, rows: Sequence[Row], new: Sequence[Sequence[int]], wanted: Sequence[int]
    ) -> list[Tensor]:
        kept: list[list[Tensor]] = [[] for _ in rows]
        piece = max(1, self.budget // len(rows))
        last = max(wanted) == 1
        for first in range(0, max(map(len, new)), piece):
            part = [i for i, ids in enumerate(new) if len(ids) > first]
            fed = [new[i][first : first + piece] for i in part]
            hidden_BLH = self.encode([rows[i] for i in part], fed, last=last)
            for b, i in enumerate(part):
                if last:
                    kept[i] = [hidden_BLH[b]]
                    continue
                begin, end = (
                    max(0, len(new[i]) - wanted[i] - first),
                    min(piece, len(new[i]) - first),
                )
                if begin < end:
                    kept[i].append(hidden_BLH[b, begin:end])
        return [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in kept]

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """Compute the logits [N, V] of hidden states [N, H]."""
        return self.head(hidden_NH)
