"""Keys and values of many conversations, kept across turns, and the forward pass that extends them.

Every conversation owns a `Slot`: a row of the buffers ``[slots, kv_heads, capacity, head_dim]`` of every layer, filled
from the left without holes::

    cache = SlotCache(model)
    slot = cache.take()
    hidden_BLH = cache.encode([slot], [[5, 6, 7]])     # positions 0, 1, 2
    hidden_BLH = cache.encode([slot], [[8]])           # position 3; sees the other three

A query at position ``p`` sees the keys ``0..p`` of its own row, by an explicit mask, so rows of different lengths are
padded on the right with anything. Rows that lie side by side are read in place; any other choice of rows is gathered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from ...plugins import UserError

_GRANULE = 64
"""Capacity grows in multiples of this many positions."""


@dataclass(slots=True, eq=False)
class Slot:
    """A row of the cache."""

    index: int
    tokens: list[int] = field(default_factory=list)
    """Ids whose keys and values are stored, at positions 0, 1, 2, ..."""
    used: int = 0
    """When it was last extended, in forward passes; the smallest is evicted first."""

    def cut(self, prompt: Sequence[int], limit: int) -> int:
        """Keep the longest common prefix with `prompt`, at most `limit` tokens; returns its length."""
        length = min(len(self.tokens), limit)
        if self.tokens[:length] != prompt[:length]:
            length = next(i for i in range(length) if self.tokens[i] != prompt[i])
        del self.tokens[length:]
        return length


class SlotCache(Cache):  # type: ignore[misc]
    """The cache object that the layers of a Hugging Face model call, and the model's forward pass around it.

    Args:
        model: a causal language model; its parameters are used where they are.
        dtype: autocast to this type, or None to compute in the parameters' own.

    Attributes:
        budget: most padded tokens in one forward pass.
        clock: forward passes so far.
        max_positions: positions the model knows, or None if it does not say.

    Raises:
        UserError: if its layers keep anything but the keys and values of plain full attention.
    """

    def __init__(self, model: Any, dtype: torch.dtype | None = None) -> None:
        super().__init__(layers=[])
        self.model, self.dtype = model, dtype
        self.decoder: Any = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
        self.head: Any = model.get_output_embeddings()
        known = getattr(model.config, "max_position_embeddings", None)
        self.max_positions: int | None = None if known is None else int(known)
        self.budget = 4096
        self.slots: list[Slot] = []
        self.clock = 0
        self._free: set[int] = set()
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}
        self._capacity = 0
        self._modules: list[torch.nn.Module] = []
        rope = getattr(model.config, "rope_parameters", None) or {}
        # These kinds of rotary embedding store frequencies that they compute in the forward pass; an inference tensor
        # must not stay behind in the trainer's module.
        stores = any(str(kind) in ("dynamic", "longrope") for kind in _rope_types(rope))
        self._no_grad: Any = torch.no_grad if stores else torch.inference_mode
        self.refresh()

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    @property
    def cached_tokens(self) -> int:
        """Tokens stored over all slots."""
        return sum(len(slot.tokens) for slot in self.slots)

    # -- slots -------------------------------------------------------------------------------------------------------

    def take(self) -> Slot:
        """An empty slot: the lowest free one."""
        if not self._free:
            self._free.add(len(self.slots))
            self.slots.append(Slot(len(self.slots)))
        index = min(self._free)
        self._free.remove(index)
        slot = self.slots[index] = Slot(index)
        return slot

    def release(self, slot: Slot) -> None:
        """Give a slot back; the memory is freed with the last one."""
        slot.tokens.clear()
        self._free.add(slot.index)
        if len(self._free) == len(self.slots):
            self.slots.clear()
            self._free.clear()
            self._buffers.clear()

    def refresh(self) -> None:
        """Forget every stored token, because the weights changed; slots stay taken."""
        for slot in self.slots:
            slot.tokens.clear()
        self._buffers.clear()
        self._modules = list(self.model.modules())

    def to_front(self, slots: Sequence[Slot]) -> list[Slot]:
        """Swap rows so that `slots` are the rows 0, 1, 2, ...; returns them in that order."""
        wanted = {slot.index for slot in slots}
        holes = [i for i in range(len(slots)) if i not in wanted]
        beyond = sorted(i for i in wanted if i >= len(slots))
        if not holes:
            return self.slots[: len(slots)]
        self._reserve(0)
        length = max(len(self.slots[i].tokens) for i in holes + beyond)
        for buffer in (buffer for pair in self._buffers.values() for buffer in pair):
            buffer[holes + beyond, :, :length] = buffer[beyond + holes, :, :length]
        for i, j in zip(holes, beyond, strict=True):
            self.slots[i], self.slots[j] = self.slots[j], self.slots[i]
            self.slots[i].index, self.slots[j].index = i, j
            if i in self._free:
                self._free.remove(i)
                self._free.add(j)
        return self.slots[: len(slots)]

    # -- forward pass ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """Evaluation mode without gradients; the module's own mode is restored afterwards."""
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

    def encode(self, slots: Sequence[Slot], new: Sequence[Sequence[int]]) -> Tensor:
        """Append tokens to slots; call it under `inference`.

        Args:
            slots: B distinct slots.
            new: the ids to append to each, at least one.

        Returns:
            Last hidden states [B, L, H], L the longest of `new`; those of shorter rows are meaningless at the end.
        """
        device, width = self.device, max(map(len, new))
        start_B = torch.tensor([len(slot.tokens) for slot in slots], device=device)
        length = max(len(slot.tokens) for slot in slots) + width
        self._reserve(length)
        ids_BL = torch.tensor([[*row, *[0] * (width - len(row))] for row in new], device=device)
        position_BL = start_B[:, None] + torch.arange(width, device=device)
        visible_BLK = torch.arange(length, device=device) <= position_BL[:, :, None]
        mask_B1LK = torch.zeros(visible_BLK.shape, device=device, dtype=self._mask_dtype)
        mask_B1LK = mask_B1LK.masked_fill_(~visible_BLK, torch.finfo(self._mask_dtype).min)[:, None]
        first = slots[0].index
        if all(slot.index == first + i for i, slot in enumerate(slots)):
            self._rows: slice | Tensor = slice(first, first + len(slots))
        else:
            self._rows = torch.tensor([slot.index for slot in slots], device=device)
        self._row_B1 = torch.tensor([[slot.index] for slot in slots], device=device)
        self._position_BL, self._length = position_BL, length
        output = self.decoder(
            input_ids=ids_BL,
            position_ids=position_BL if self.max_positions is None else position_BL.clamp(max=self.max_positions - 1),
            attention_mask=mask_B1LK,
            past_key_values=self,
            use_cache=True,
        )
        self.clock += 1
        for slot, row in zip(slots, new, strict=True):
            slot.tokens.extend(row)
            slot.used = self.clock
        hidden_BLH: Tensor = output.last_hidden_state
        return hidden_BLH

    def extend(self, slots: Sequence[Slot], new: Sequence[Sequence[int]], wanted: Sequence[int]) -> list[Tensor]:
        """Append tokens to slots in as many forward passes as the budget of padded tokens asks for.

        Args:
            slots: B distinct slots.
            new: the ids to append to each, at least one.
            wanted: how many of its last hidden states are needed, at least one and at most as many as are new, [B].

        Returns:
            For each slot its last hidden states, [wanted, H].
        """
        kept: list[list[Tensor]] = [[] for _ in slots]
        piece = max(1, self.budget // len(slots))
        for first in range(0, max(map(len, new)), piece):
            part = [i for i, ids in enumerate(new) if len(ids) > first]
            hidden_BLH = self.encode([slots[i] for i in part], [new[i][first : first + piece] for i in part])
            for b, i in enumerate(part):
                begin, end = max(0, len(new[i]) - wanted[i] - first), min(piece, len(new[i]) - first)
                if begin < end:
                    kept[i].append(hidden_BLH[b, begin:end])
        return [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in kept]

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """Logits [N, V] of hidden states [N, H]."""
        logits_NV: Tensor = self.head(hidden_NH)
        return logits_NV

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by a layer: store keys and values [B, heads, L, D], return those of the rows [B, heads, K, D]."""
        keys, values = self._buffers.get(layer_idx) or self._allocate(layer_idx, key_states, value_states)
        keys[self._row_B1, :, self._position_BL] = key_states.transpose(1, 2)
        values[self._row_B1, :, self._position_BL] = value_states.transpose(1, 2)
        return keys[self._rows, :, : self._length], values[self._rows, :, : self._length]

    def get_seq_length(self, layer_idx: int = 0, *_: Any) -> int:
        """Longest row, the tokens of the running forward pass not counted."""
        return max((len(slot.tokens) for slot in self.slots), default=0)

    @property
    def _mask_dtype(self) -> torch.dtype:
        return self.dtype or self.head.weight.dtype

    def _reserve(self, length: int) -> None:
        """Grow the buffers to hold every slot and `length` positions."""
        if length > self._capacity:
            self._capacity = -(-max(length, self._capacity * 3 // 2) // _GRANULE) * _GRANULE
        for layer, pair in self._buffers.items():
            rows, heads, capacity, _ = pair[0].shape
            if rows < len(self.slots) or capacity < self._capacity:
                grown = []
                for buffer in pair:
                    shape = (max(rows, len(self.slots)), heads, self._capacity, buffer.shape[-1])
                    grown.append(torch.zeros(shape, dtype=buffer.dtype, device=buffer.device))
                    grown[-1][:rows, :, :capacity] = buffer
                self._buffers[layer] = grown[0], grown[1]

    def _allocate(self, layer: int, *states: Tensor) -> tuple[Tensor, Tensor]:
        # Zeros, because a masked key with a NaN left over in memory would still give NaN.
        made = [x.new_zeros(len(self.slots), x.shape[1], self._capacity, x.shape[-1]) for x in states]
        self._buffers[layer] = made[0], made[1]
        return self._buffers[layer]


def _rope_types(rope: dict[str, Any]) -> list[Any]:
    """The rotary types of a config, which may name one for all layers or one per layer type."""
    return [rope.get("rope_type"), *(v.get("rope_type") for v in rope.values() if isinstance(v, dict))]


def check_model(cache: SlotCache) -> None:
    """Look at the kind of its layers, and compare a pass through the slots with the model's own on eight tokens.

    Raises:
        UserError: if the model keeps another kind of state than keys and values, or changes its logits after the head.
    """
    name = type(cache.model).__name__
    kinds = {type(layer) for layer in DynamicCache(config=cache.model.config).layers} - {DynamicLayer}
    if kinds:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise UserError(f"the torch engine serves causal models with plain full attention, not {name} ({found})")
    vocabulary = cache.head.weight.shape[0]
    ids = [(7 * i + 1) % vocabulary for i in range(8)]
    a, b = cache.take(), cache.take()
    try:
        with cache.inference():
            expected_V = cache.model(input_ids=torch.tensor([ids], device=cache.device), use_cache=False).logits[0, -1]
            cache.encode([a, b], [ids[:3], ids[:5]])
            hidden_BLH = cache.encode([a, b], [ids[3:], ids[5:]])
            got_V = cache.logits(hidden_BLH[0, -1:])[0]
        scale = expected_V.float().abs().max().item() + 1e-3
        tolerance = scale * (1e-3 if expected_V.dtype == torch.float32 and cache.dtype is None else 0.1)
        same = len(cache._buffers) > 0 and torch.allclose(
            got_V.float(), expected_V.float(), 0, tolerance, equal_nan=True
        )
        reason = "its logits with cached keys and values differ from those without"
    except Exception as error:
        same, reason = False, f"{type(error).__name__}: {error}"
    finally:
        cache.release(a)
        cache.release(b)
    if not same:
        raise UserError(f"the torch engine serves causal models with plain full attention, not {name} ({reason})")
