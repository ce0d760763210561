"""What a model is served through, found out and checked once per engine.

Most models keep the keys and values of their tokens, which lie in one buffer for all conversations
(`RowCache`); the others keep what they like in transformers' own cache objects (`StateCache`).
Either has to give the logits that the model computes without any cache.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...foundation.errors import UserError
from .kv_cache import RowCache
from .positions import exact_positions, text_config
from .rows import Rows
from .slots import SlotCache
from .state_cache import StateCache
from .windows import short_windows, windows_of

_PIECES = (3, 5, 1)
"""Tokens that are encoded at a time where keys and values are stored."""
_MORE_PIECES = (5, 7, *[1] * 12)
"""The same where states are: what a family gets wrong may show later."""
_EXACT, _ROUGH = 2e-4, 0.1
"""Largest difference of logits, as a share of the largest one: in float32, and in less."""


def context_of(model: Any, asked: int | None) -> int:
    """Return the length of the context in tokens, as asked for or as the model's config says.

    Raises UserError if it says nothing and nothing is asked, or if more is asked than it says.
    """
    known = exact_positions(model.config)
    if asked is None and known is None:
        raise UserError(
            "this model does not say how long its context is; give the torch engine a max_context"
        )
    if asked is not None and known is not None and asked > known:
        total = getattr(text_config(model.config), "max_position_embeddings", known)
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


def cache_for(
    model: Any, dtype: torch.dtype | None, max_context: int, *, still: bool = False
) -> Rows[Any]:
    """Return what a model is served through, after passes of a few tokens that show that it holds.

    Args:
        model: a causal language model.
        dtype: autocast to this type, or None to compute in the parameters' own.
        max_context: the longest row.
        still: keep the buffers of keys and values where they are.

    Raises:
        UserError: if the model's logits with what it keeps are not those that it computes at once,
            or if it encodes the positions of a row by those of its neighbour.
    """
    reasons: list[str] = []
    for made in (SlotCache if still else RowCache, StateCache):
        try:
            cache = made(model, dtype)
            with _short(cache):
                problem = _problem(cache, max_context)
        except UserError:
            raise
        except ValueError as error:
            problem = str(error)
        except Exception as error:  # models differ in more ways than can be listed
            problem = f"{type(error).__name__}: {error}".splitlines()[0]
        if problem is None:
            return cache
        reasons.append(problem)
    raise UserError(
        f"the torch engine cannot serve {type(model).__name__}: {reasons[-1]}; use a model of"
        " another family, such as Qwen3, Llama 3, Gemma 3 or Falcon-H1 (docs/models.md lists what"
        " is tested)"
    )


@contextlib.contextmanager
def _short(cache: Rows[Any]) -> Iterator[None]:
    """Look at the model with windows of a few tokens, if its masks are ours to make."""
    if not isinstance(cache, RowCache):
        yield
        return
    windows = cache.windows
    with short_windows(cache.decoder):
        cache.windows = windows_of(cache.decoder) or windows
        yield
    cache.windows = windows


def _problem(cache: Rows[Any], max_context: int) -> str | None:
    """Say why a model cannot be served through this cache; None if it can."""
    pieces = _PIECES if isinstance(cache, RowCache) else _MORE_PIECES
    vocabulary = cache.model.get_input_embeddings().weight.shape[0]
    ids = [(7 * i + 1) % vocabulary for i in range(sum(pieces))]
    with cache.inference():
        raw_LV = cache.model(
            input_ids=torch.tensor([ids], device=cache.device), use_cache=False
        ).logits[0]
    expected_LV = cache.head.said(raw_LV)
    scale = float(expected_LV.abs().max()) + 1e-3
    exact = raw_LV.dtype == torch.float32 and cache.dtype is None
    tolerance = scale * (_EXACT if exact else _ROUGH)
    ends = torch.tensor(pieces, device=cache.device).cumsum(0) - 1
    worst = 0.0
    for way in _ways(cache):
        got_PV: Tensor | None = None
        with way:
            got_PV = _logits_through_rows(cache, ids, pieces)
        if got_PV is None:
            continue
        worst = float((got_PV - expected_LV[ends]).abs().max())
        if worst <= tolerance or bool(expected_LV.isnan().any()):
            _check_positions(cache, ids, max_context, expected_LV[-1], tolerance)
            return None
    what = "cached keys and values" if isinstance(cache, RowCache) else "transformers' own cache"
    return f"its logits with {what} differ from those without, by {worst:.2g}"


def _ways(cache: Rows[Any]) -> Iterator[contextlib.AbstractContextManager[None]]:
    """Set a cache to the fast way and to the plain one; what the fast one raises is no matter."""
    if isinstance(cache, RowCache):
        cache.narrow = True
        yield contextlib.suppress(Exception)
        cache.narrow = False
    else:
        assert isinstance(cache, StateCache)
        yield contextlib.suppress(Exception)
        cache.singly = True
    yield contextlib.nullcontext()


def _logits_through_rows(cache: Rows[Any], ids: list[int], pieces: tuple[int, ...]) -> Tensor:
    """Compute the logits [P, V] at the end of each piece, encoded beside other pieces.

    Raises ValueError if nothing was stored.
    """
    a, b = cache.take(), cache.take()
    try:
        logits, start = [], 0
        with cache.inference():
            for length in pieces:
                piece = ids[start : start + length]
                hidden_B1H = cache.encode([a, b], [piece, [*piece[1:], *ids[:2]]], last=True)
                logits.append(cache.logits(hidden_B1H[0])[0])
                start += length
        if not cache.stores:
            raise ValueError("its layers store nothing in the cache that they are given")
        return torch.stack(logits)
    finally:
        cache.release(a)
        cache.release(b)


def _check_positions(
    cache: Rows[Any], ids: list[int], max_context: int, expected_V: Tensor, tolerance: float
) -> None:
    """Raise UserError if tokens are encoded otherwise beside the same at the context's end."""
    if isinstance(cache, StateCache) and not cache.positions:
        return
    own = torch.arange(len(ids), device=cache.device)
    far = own + max(max_context - len(ids), 0)
    tokens_BL = torch.tensor([ids, ids], device=cache.device)
    with cache.inference():
        output = cache.decoder(
            input_ids=tokens_BL, position_ids=torch.stack([own, far]), use_cache=False
        )
        # Encodings that were computed for the far end are computed anew for what comes next.
        cache.decoder(input_ids=tokens_BL[:1], position_ids=own[None], use_cache=False)
        beside_V = cache.logits(output.last_hidden_state[0, -1:])[0]
    if not torch.allclose(beside_V, expected_V, 0, tolerance, equal_nan=True):
        raise UserError(
            f"max_context={max_context} is too long for {type(cache.model).__name__}: the positions"
            " of a row are encoded by those of the longest row beside it, so that it would sample"
            " other tokens; ask for a shorter one"
        )
