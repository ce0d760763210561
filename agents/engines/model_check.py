"""Whether a model can be served through a SlotCache: asked once, when an engine is made."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from ...plugins import UserError
from .kv_cache import SlotCache


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
    try:
        with cache.inference():
            expected_V = cache.model(input_ids=torch.tensor([ids], device=cache.device), use_cache=False).logits[0, -1]
        scale = expected_V.float().abs().max().item() + 1e-3
        tolerance = scale * (1e-3 if expected_V.dtype == torch.float32 and cache.dtype is None else 0.1)
        for narrow in (True, False):
            cache.narrow = narrow
            got_V = _logits_through_slots(
                cache, ids, contextlib.suppress(Exception) if narrow else contextlib.nullcontext()
            )
            if got_V is not None and torch.allclose(got_V.float(), expected_V.float(), 0, tolerance, equal_nan=True):
                return
        reason = "its logits with cached keys and values differ from those without"
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    raise UserError(f"the torch engine serves causal models with plain full attention, not {name} ({reason})")


def _logits_through_slots(
    cache: SlotCache, ids: list[int], guard: contextlib.AbstractContextManager[Any]
) -> Tensor | None:
    """Logits [V] after eight tokens, encoded in two parts beside another row; None if `guard` caught an error."""
    a, b = cache.take(), cache.take()
    try:
        with guard, cache.inference():
            cache.encode([a, b], [ids[:3], ids[:5]])
            hidden_B1H = cache.encode([a, b], [ids[3:], ids[5:]], last=True)
            return cache.logits(hidden_B1H[0])[0] if cache.stores else None
    finally:
        cache.release(a)
        cache.release(b)
    return None
