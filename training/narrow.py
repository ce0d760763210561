"""Narrow: the last layer of a model computed only for the tokens whose hidden state somebody reads.

A policy loss reads the state before every token that was sampled, about one in eight. All layers but the last need
every token, because later tokens attend to them; of the last layer only the keys and values do. Its queries, output
projection and feed-forward part are skipped elsewhere, which is a fifth of the work of a four-layer model, forward and
backward, with the same values and gradients::

    hidden_ND = hidden_before(decoder, tokens_BL, mask_BL)      # row-major, one row per True of the mask

The layer is called twice from a hook: once until it has handed out its keys and values, once with the chosen columns. A
model that is not built that way (`narrows` compares the two on a few tokens, once) is computed in full.
"""

from __future__ import annotations

import contextlib
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .attention import CausalBlocks

WORTH = 0.5
"""Largest share of columns for which choosing them pays."""
_CACHES = ("past_key_values", "layer_past")
"""What layers call the object that keeps their keys and values."""
_PER_COLUMN = ("position_ids", "position_embeddings")
"""Arguments of a layer with columns, [B or 1, L, ...], beside the hidden states and the mask."""
_known: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


class _Stored(Exception):
    """Leaves a layer as soon as it has its keys and values."""


class _Keys:
    """What a layer takes for its cache: keeps the first keys and values, and answers with them ever after."""

    def __init__(self) -> None:
        self.kept: tuple[Tensor, Tensor] | None = None

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if self.kept is None:
            self.kept = keys, values
            raise _Stored
        return self.kept


def hidden_states(decoder: nn.Module, tokens_BL: Tensor) -> Tensor:
    """Last hidden states [B, L, D] of right-padded rows."""
    with contextlib.nullcontext() if _recomputes(decoder) else CausalBlocks():
        hidden_BLD: Tensor = decoder(input_ids=tokens_BL, use_cache=False).last_hidden_state
    return hidden_BLD


def hidden_before(decoder: nn.Module, tokens_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Last hidden states [N, D] of the tokens that precede those under the mask, in row-major order.

    Args:
        decoder: a model without its head.
        tokens_BL: int64, right-padded.
        mask_BL: bool, False in column 0.
    """
    rows_N, columns_N = mask_BL.nonzero(as_tuple=True)
    counts_B = mask_BL.sum(1)
    most = int(counts_B.max()) if len(rows_N) else 0
    if not 0 < most <= WORTH * tokens_BL.shape[1] or not narrows(decoder):
        return hidden_states(decoder, tokens_BL)[rows_N, columns_N - 1]
    first_B = counts_B.cumsum(0) - counts_B
    place_N = torch.arange(len(rows_N), device=tokens_BL.device) - first_B[rows_N]
    at_BN = torch.zeros(len(tokens_BL), most, dtype=torch.long, device=tokens_BL.device)
    at_BN[rows_N, place_N] = columns_N - 1
    return _narrowed(decoder, tokens_BL, at_BN)[rows_N, place_N]


def narrows(decoder: nn.Module) -> bool:
    """Whether the last layer of this model can be computed for some columns only."""
    layers = getattr(decoder, "layers", None)
    if not layers or _recomputes(decoder):
        return False
    if getattr(decoder.config, "_attn_implementation", None) not in ("sdpa", "eager"):
        return False
    if decoder not in _known:
        _known[decoder] = _same(decoder)
    return _known[decoder]


def _recomputes(decoder: nn.Module) -> bool:
    """Gradient checkpointing calls layers again in the backward pass, where neither hooks nor modes of ours are."""
    return any(getattr(layer, "gradient_checkpointing", False) for layer in getattr(decoder, "layers", ()))


def _same(decoder: nn.Module) -> bool:
    """Both ways on a few tokens."""
    training = [module for module in decoder.modules() if module.training]
    decoder.eval()
    try:
        weight = decoder.get_input_embeddings().weight  # type: ignore[operator]
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            tokens_BL = (torch.arange(16, device=weight.device) * 7 + 1).view(2, 8) % weight.shape[0]
            at_BN = torch.tensor([[1, 5, 3], [7, 0, 0]], device=weight.device)
            full_BLD = hidden_states(decoder, tokens_BL)
            part_BND = _narrowed(decoder, tokens_BL, at_BN)
            full_BND = full_BLD[torch.arange(2, device=weight.device)[:, None], at_BN]
            tolerance = (1e-4 if full_BND.dtype == torch.float32 else 0.05) * float(full_BND.float().abs().max())
            return torch.allclose(part_BND.float(), full_BND.float(), rtol=0, atol=tolerance)
    except Exception:  # models differ in more ways than can be listed; computing in full is always right
        return False
    finally:
        for module in training:
            module.training = True


def _narrowed(decoder: nn.Module, tokens_BL: Tensor, at_BN: Tensor) -> Tensor:
    """Last hidden states [B, N, D] of the columns `at_BN`."""
    row_B1 = torch.arange(len(at_BN), device=at_BN.device)[:, None]

    def pick(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(pick(part) for part in x)
        return x.expand(len(at_BN), *x.shape[1:])[row_B1, at_BN]

    def hook(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden_BLD, *rest = args
        keys = {next(name for name in _CACHES if name in kwargs): _Keys()}
        with contextlib.suppress(_Stored):
            layer.forward(*args, **(kwargs | keys))
        hidden_BND = pick(hidden_BLD)
        later_BNL = torch.arange(hidden_BLD.shape[1], device=at_BN.device) > at_BN[:, :, None]
        mask_B1NL = torch.zeros(later_BNL.shape, dtype=hidden_BND.dtype, device=at_BN.device)
        mask_B1NL = mask_B1NL.masked_fill_(later_BNL, torch.finfo(hidden_BND.dtype).min)[:, None]
        picked = {name: pick(kwargs[name]) for name in _PER_COLUMN if kwargs.get(name) is not None}
        return (hidden_BND, *rest), kwargs | keys | picked | {"attention_mask": mask_B1NL}

    handle = decoder.layers[-1].register_forward_pre_hook(hook, with_kwargs=True)  # type: ignore[index, union-attr]
    try:
        return hidden_states(decoder, tokens_BL)
    finally:
        handle.remove()
