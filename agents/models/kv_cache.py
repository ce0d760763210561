"""Keys and values of many conversations, kept across turns, and the pass that extends them.

Every conversation owns a `CacheRow`: a row of the buffers ``[rows, kv_heads, capacity, head_dim]``
of every layer, filled from the left without holes::

    cache = RowCache(model)
    row = cache.take()
    hidden_BLH = cache.encode([row], [[5, 6, 7]])     # positions 0, 1, 2
    hidden_BLH = cache.encode([row], [[8]])           # position 3; sees the other three

A query at position ``p`` sees the keys ``0..p`` of its own row, or the last of them if its layer
has a window, by an explicit mask, so rows of different lengths are padded on the right with
anything. Rows that lie side by side are read in place; any other choice of rows is gathered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from .last_layer import Stored, only_columns
from .rows import CacheRow, Rows
from .tricks import pays
from .windows import Windows, windows_of

_GRANULE = 64
"""Capacity grows in multiples of this many positions."""


class RowCache(Rows[CacheRow], Cache):  # type: ignore[misc]
    """The cache that a Hugging Face model's layers call, and the model's forward pass around it.

    Args:
        model: a causal language model; its parameters are used where they are.
        dtype: autocast to this type, or None to compute in the parameters' own.

    Attributes: windows: how far each layer sees. narrow: skip what the last layer computes for
        tokens whose hidden state nobody needs.

    Raises:
        ValueError: its layers keep anything but the keys and values of attention.
    """

    kind = "keys and values of all conversations in one buffer"

    def __init__(self, model: Any, dtype: torch.dtype | None = None) -> None:
        Cache.__init__(self, layers=[])
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}
        self._capacity = 0
        Rows.__init__(self, model, dtype)
        windows = windows_of(self.decoder)
        if windows is None:
            raise ValueError("its layers keep more than the keys and values of attention")
        self.windows: Windows = windows
        self.narrow = True

    @property
    def stores(self) -> bool:
        """Tell whether layers have stored anything."""
        return bool(self._buffers)

    # -- rows --------------------------------------------------------------------------------------

    def _row(self, index: int) -> CacheRow:
        return CacheRow(index)

    def _emptied(self) -> None:
        self._buffers.clear()

    def spoilt(self, rows: Sequence[CacheRow]) -> None:
        """Forget what is stored in rows of a pass that failed, and put zeros in its place.

        A hidden key counts with a weight of 0, which leaves nothing of a number, and a NaN of a
        NaN.
        """
        super().spoilt(rows)
        with torch.inference_mode():
            for buffer in (buffer for pair in self._buffers.values() for buffer in pair):
                buffer[[row.index for row in rows]] = 0.0

    def to_front(self, rows: Sequence[CacheRow]) -> None:
        """Move `rows` to the places 0, 1, 2, ... by swaps."""
        wanted = {row.index for row in rows}
        holes = [i for i in range(len(rows)) if i not in wanted]
        beyond = sorted(i for i in wanted if i >= len(rows))
        if not holes:
            return
        # Rows that were taken since the last pass have no place in the buffers yet.
        self._reserve(0)
        length = max(len(self.rows[i].tokens) for i in holes + beyond)
        for buffer in (buffer for pair in self._buffers.values() for buffer in pair):
            # The right side is a copy, so one assignment lets rows change places.
            buffer[holes + beyond, :, :length] = buffer[beyond + holes, :, :length]
        for i, j in zip(holes, beyond, strict=True):
            self.rows[i], self.rows[j] = self.rows[j], self.rows[i]
            self.rows[i].index, self.rows[j].index = i, j
            if i in self._free:
                self._free.remove(i)
                self._free.add(j)

    # -- forward pass ------------------------------------------------------------------------------

    def encode(
        self, rows: Sequence[CacheRow], new: Sequence[Sequence[int]], *, last: bool = False
    ) -> Tensor:
        """Add tokens to rows, padded on the right to the longest; see `Rows.encode`."""
        device, width = self.device, max(map(len, new))
        start_B = torch.tensor([len(row.tokens) for row in rows], device=device)
        end_B = start_B + torch.tensor([len(ids) - 1 for ids in new], device=device)
        length = max(len(row.tokens) for row in rows) + width
        self._reserve(length)
        # What is stored of padding lies beyond the row's end: no token looks there, and those
        # that come next overwrite it.
        ids_BL = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in new], device=device)
        position_BL = start_B[:, None] + torch.arange(width, device=device)
        # A slice reads the buffers in place; an index copies the rows in every layer.
        first = rows[0].index
        if all(row.index == first + i for i, row in enumerate(rows)):
            self._read: slice | Tensor = slice(first, first + len(rows))
        else:
            self._read = torch.tensor([row.index for row in rows], device=device)
        self._row_B1 = torch.tensor([[row.index] for row in rows], device=device)
        self._position_BL, self._length = position_BL, length
        with self._last_only([len(ids) - 1 for ids in new] if last and width > 1 else None):
            output = self.decoder(
                input_ids=ids_BL,
                # Padding beyond a row's end would be at positions that no row has, and the model
                # may not know.
                position_ids=torch.minimum(position_BL, end_B[:, None]),
                attention_mask=self.windows.masks(self._mask)[0],
                past_key_values=self,
                use_cache=True,
            )
        self.clock += 1
        for row, ids in zip(rows, new, strict=True):
            row.tokens.extend(ids)
            row.used = self.clock
        hidden_BLH: Tensor = output.last_hidden_state
        if last and hidden_BLH.shape[1] > 1:
            at_B = torch.tensor([len(ids) - 1 for ids in new], device=device)
            return hidden_BLH[torch.arange(len(at_B), device=device), at_B][:, None]
        return hidden_BLH

    def _mask(self, window: int | None) -> Tensor:
        """Hide [B, 1, L, K] what comes after a new token, or before its window."""
        key_K = torch.arange(self._length, device=self._position_BL.device)
        visible_BLK = key_K <= self._position_BL[:, :, None]
        if window is not None:
            visible_BLK &= key_K > self._position_BL[:, :, None] - window
        dtype = self.dtype or self.head.dtype
        mask_BLK = torch.zeros(visible_BLK.shape, device=key_K.device, dtype=dtype)
        return mask_BLK.masked_fill_(~visible_BLK, torch.finfo(dtype).min)[:, None]

    def _last_only(self, at: list[int] | None) -> contextlib.AbstractContextManager[None]:
        """Let the last layer compute one column per row, `at` [B].

        Nothing else of it is ever read.
        """
        layers = getattr(self.decoder, "layers", None)
        worth = self.narrow and pays(self.device).last_layer
        if at is None or not worth or not layers:
            return contextlib.nullcontext()
        at_B1 = torch.tensor(at, device=self.device)[:, None]
        row_B1 = torch.arange(len(at), device=self.device)[:, None]

        def mask(mask_B1LK: Tensor | None, hidden_B1H: Tensor) -> Tensor:
            assert mask_B1LK is not None
            return mask_B1LK[row_B1, :, at_B1].transpose(1, 2)

        return only_columns(layers[-1], at_B1, lambda _, cache: LastColumns(cache, at_B1), mask)

    def _copy(self, pairs: Sequence[tuple[CacheRow, CacheRow]]) -> None:
        """Copy what the first row of each pair holds to the second."""
        if not pairs:
            return
        sources, targets = [a.index for a, _ in pairs], [b.index for _, b in pairs]
        length = max(len(a.tokens) for a, _ in pairs)
        for buffer in (buffer for pair in self._buffers.values() for buffer in pair):
            buffer[targets, :, :length] = buffer[sources, :, :length]
        for a, b in pairs:
            b.tokens[:], b.used = a.tokens, a.used

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Store a layer's keys and values [B, heads, L, D]; return the rows' [B, heads, K, D].

        A layer calls this.
        """
        keys, values = self.store(key_states, value_states, layer_idx)
        return keys[self._read, :, : self._length], values[self._read, :, : self._length]

    def store(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int
    ) -> tuple[Tensor, Tensor]:
        """Store keys and values [B, heads, L, D] of a layer; return its buffers."""
        keys, values = self._buffers.get(layer_idx) or self._allocate(
            layer_idx, key_states, value_states
        )
        # Of two indices around a slice torch puts the axes first: [B, L, heads, D].
        keys[self._row_B1, :, self._position_BL] = key_states.transpose(1, 2)
        values[self._row_B1, :, self._position_BL] = value_states.transpose(1, 2)
        return keys, values

    def narrow_to(self, at_B1: Tensor) -> None:
        """Let what is stored next be these columns of the pass alone."""
        self._position_BL = self._position_BL.gather(1, at_B1)

    def get_seq_length(self, layer_idx: int = 0, *_: Any) -> int:
        """Return the longest row, without the tokens of the running forward pass."""
        return max((len(row.tokens) for row in self.rows), default=0)

    def _reserve(self, length: int) -> None:
        """Grow the buffers to hold every row and `length` positions."""
        rows, self._capacity = self._room(length)
        for layer, pair in self._buffers.items():
            held, heads, capacity, _ = pair[0].shape
            if held < rows or capacity < self._capacity:
                grown = []
                for buffer in pair:
                    shape = (max(held, rows), heads, self._capacity, buffer.shape[-1])
                    grown.append(torch.zeros(shape, dtype=buffer.dtype, device=buffer.device))
                    grown[-1][:held, :, :capacity] = buffer
                self._buffers[layer] = grown[0], grown[1]
                self._grown()

    def _room(self, length: int) -> tuple[int, int]:
        """Return how many rows and positions the buffers shall have, to hold `length` positions."""
        capacity = self._capacity
        if length > capacity:
            # By half at least: to grow copies all that is stored, and a step may add but one token.
            capacity = -(-max(length, capacity * 3 // 2) // _GRANULE) * _GRANULE
        return len(self.rows), capacity

    def _grown(self) -> None:
        """Note that a buffer lies elsewhere now."""

    def _allocate(self, layer: int, *states: Tensor) -> tuple[Tensor, Tensor]:
        # Zeros, because a masked key with a NaN left over in memory would still give NaN.
        rows, _ = self._room(0)
        made = [x.new_zeros(rows, x.shape[1], self._capacity, x.shape[-1]) for x in states]
        self._buffers[layer] = made[0], made[1]
        self._grown()
        return self._buffers[layer]


class LastColumns:
    """The cache that the last layer is given: it stores all columns, then reads for one a row.

    Args:
        cache: where they are stored.
        at_B1: the column that is read, of each row.
    """

    def __init__(self, cache: RowCache, at_B1: Tensor) -> None:
        self.cache, self.at_B1 = cache, at_B1
        self.stored = False

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Store all columns, and leave the layer; answer at the second call as the cache does."""
        if not self.stored:
            self.stored = True
            self.cache.store(keys, values, layer)
            self.cache.narrow_to(self.at_B1)
            raise Stored
        # The keys and values of the chosen columns, once more: they land where they are.
        return self.cache.update(keys, values, layer)
