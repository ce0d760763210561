"""Slots: a row cache whose buffers stay where they are, so that one decode step is always the same.

On a GPU a step of one token is bound by the launches of its kernels, unless they are recorded once
and replayed: then everything that the step reads and writes has to lie where it lay. The buffers of
a `RowCache` grow with every conversation and go with the last one; those of a `SlotCache` are as
large as a power of two and stay, and `step` takes what changes from tensors of the device::

    hidden_BH = cache.step(token_B, position_B, length=256)     # the first B rows
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .kv_cache import RowCache
from .rows import CacheRow

_LEAST = 256
"""Positions of the smallest buffer."""
_KEPT = 0.25
"""Largest share of a GPU's memory that is kept while nothing is stored."""


def bucket(count: int, least: int = 1) -> int:
    """Round a count up to a power of two."""
    return max(least, 1 << (count - 1).bit_length()) if count > 1 else least


class SlotCache(RowCache):
    """A row cache with buffers that stay, and a decode step that needs nothing of the host.

    Attributes: generation: changes whenever buffers or weights lie elsewhere than before.
    """

    def __init__(self, model: Any, dtype: torch.dtype | None = None) -> None:
        self.generation = 0
        self._where: list[int] = []
        super().__init__(model, dtype)

    def refresh(self) -> None:
        """Forget every stored token, because the weights changed; rows stay taken."""
        super().refresh()
        where = [tensor.data_ptr() for tensor in (*self.model.parameters(), *self.model.buffers())]
        if where != self._where:
            self._where = where
            self.generation += 1

    @property
    def capacity(self) -> int:
        """Return the positions that a row has room for."""
        return self._capacity

    def reserve(self, rows: int, length: int) -> None:
        """Make room for so many positions of so many rows, taken or not, before a step."""
        while len(self.rows) < rows:
            self._free.add(len(self.rows))
            self.rows.append(CacheRow(len(self.rows)))
        self._reserve(length)

    def step(self, token_B: Tensor, position_B: Tensor, length: int) -> Tensor:
        """Encode one token in each of the first B rows; returns its last hidden states [B, H].

        What the rows are said to hold stays as it is: whoever calls it says that afterwards. A row
        that is no part of the step is given the position after its last token, where nothing is
        stored yet.

        Args:
            token_B: int64.
            position_B: int64, where it is stored; it sees what is stored before it.
            length: positions that are read, more than any of the rows that matter has.
        """
        self._read = slice(0, len(token_B))
        self._row_B1 = torch.arange(len(token_B), device=token_B.device)[:, None]
        self._position_BL, self._length = position_B[:, None], length
        output = self.decoder(
            input_ids=token_B[:, None],
            position_ids=self._position_BL,
            attention_mask=self.windows.masks(self._mask)[0],
            past_key_values=self,
            use_cache=True,
        )
        hidden_BH: Tensor = output.last_hidden_state[:, 0]
        return hidden_BH

    def _emptied(self) -> None:
        """Keep the buffers as if they were new, unless they take much of a GPU's memory."""
        with torch.inference_mode():
            for buffer in (buffer for pair in self._buffers.values() for buffer in pair):
                buffer.zero_()
        held = sum(t.numel() * t.element_size() for pair in self._buffers.values() for t in pair)
        if held and self.device.type == "cuda":
            _, total = torch.cuda.mem_get_info(self.device)
            if held > _KEPT * total:
                self._buffers.clear()
                self.generation += 1

    def _room(self, length: int) -> tuple[int, int]:
        return bucket(len(self.rows)), bucket(max(length, self._capacity), _LEAST)

    def _grown(self) -> None:
        self.generation += 1
