"""The check that a model can be served through a RowCache, made once per engine."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from ...foundation.errors import UserError
from .kv_cache import RowCache

_TOKENS = 8
"""Length of the rows that are compared."""


def context_of(cache: RowCache, asked: int | None) -> int:
    """Return the length of the context in tokens, as asked for or as the model's config says.

    Raises UserError if it says nothing and nothing is asked, or if more is asked than it says.
    """
    known = cache.max_positions
    if asked is None and known is None:
        raise UserError(
            "this model does not say how long its context is; give the torch engine a max_context"
        )
    if asked is not None and known is not None and asked > known:
        total = getattr(cache.model.config, "max_position_embeddings", known)
        why = (
            f"the model has {known} positions"
            if total == known
            else (
                f"beyond {known} of its {total} positions the model encodes a position by the"
                " longest row of the batch"
            )
        )
        raise UserError(f"max_context={asked} is too long: {why}")
    return asked or known or 0


def check_model(cache: RowCache, max_context: int) -> None:
    """Check the kinds of a model's layers, and its passes through the cache on eight tokens.

    The passes are compared with the model's own.

    Raises:
        UserError: if the model keeps another kind of state than keys and values, changes its logits
            after the head, or encodes the positions of a row by those of its neighbour.
    """
    name = type(cache.model).__name__
    kinds = {type(layer) for layer in DynamicCache(config=cache.model.config).layers} - {
        DynamicLayer
    }
    if kinds:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise UserError(
            f"the torch engine serves causal models with plain full attention, not {name} ({found})"
        )
    if getattr(cache.model.config, "final_logit_softcapping", None):
        raise UserError(
            f"the torch engine serves models whose logits are their head's, not {name}"
            " (softcapping)"
        )
    vocabulary = cache.head.weight.shape[0]
    ids = [(7 * i + 1) % vocabulary for i in range(_TOKENS)]
    try:
        with cache.inference():
            expected_V = cache.model(
                input_ids=torch.tensor([ids], device=cache.device), use_cache=False
            ).logits[0, -1]
        scale = expected_V.float().abs().max().item() + 1e-3
        tolerance = scale * (
            1e-3 if expected_V.dtype == torch.float32 and cache.dtype is None else 0.1
        )
        for narrow in (True, False):
            cache.narrow = narrow
            got_V = _logits_through_rows(
                cache, ids, contextlib.suppress(Exception) if narrow else contextlib.nullcontext()
            )
            if got_V is not None and torch.allclose(
                got_V.float(), expected_V.float(), 0, tolerance, equal_nan=True
            ):
                beside_V = _logits_beside(cache, ids, max_context)
                if torch.allclose(
                    beside_V.float(), expected_V.float(), 0, tolerance, equal_nan=True
                ):
                    return
                raise UserError(
                    f"max_context={max_context} is too long for {name}: the positions of a row are"
                    " encoded by those of the longest row beside it, so that it would sample other"
                    " tokens; ask for a shorter one"
                )
        reason = "its logits with cached keys and values differ from those without"
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    raise UserError(
        f"the torch engine serves causal models with plain full attention, not {name} ({reason})"
    )


def _logits_through_rows(
    cache: RowCache, ids: list[int], guard: contextlib.AbstractContextManager[Any]
) -> Tensor | None:
    """Compute logits [V] after eight tokens, encoded in two parts beside another row.

    None if `guard` caught an error.
    """
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


def _logits_beside(cache: RowCache, ids: list[int], max_context: int) -> Tensor:
    """Compute logits [V] after eight tokens, beside the same tokens at the context's end."""
    own = torch.arange(len(ids), device=cache.device)
    far = own + max(max_context - len(ids), 0)
    tokens_BL = torch.tensor([ids, ids], device=cache.device)
    with cache.inference():
        output = cache.decoder(
            input_ids=tokens_BL, position_ids=torch.stack([own, far]), use_cache=False
        )
        # Encodings that were computed for the far end are computed anew for what comes next.
        cache.decoder(input_ids=tokens_BL[:1], position_ids=own[None], use_cache=False)
        return cache.logits(output.last_hidden_state[0, -1:])[0]
