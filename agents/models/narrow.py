"""Narrow: a forward pass that computes each thing once, and only where somebody reads it.

- *The last layer.* A policy loss reads the hidden state before every token that was sampled, about
  one in eight. All layers but the last need every token, because later tokens attend to them; of
  the last layer only the keys and values do. Its queries, output projection and feed-forward part
  are skipped elsewhere: a fifth of the work of a four-layer model. The layer is called twice from a
  hook: until it has handed out its keys and values, then with the columns read.
- *The beginning.* Rows of a batch begin with the same rules, those of a group with the same
  observation too. What all rows share is encoded once, and its keys and values are given to every
  row, as to a cache.

Values and gradients are those of the plain pass (up to rounding)::

    hidden_ND = hidden_before(decoder, tokens_BL, mask_BL)  # a row per True of the mask

A model that is not built that way (`narrows` compares the two on a few tokens, once) is computed in
full: one that keeps more than keys and values of its tokens, for example.
"""

from __future__ import annotations

import contextlib
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from ...foundation.errors import UserError
from .attention import CausalBlocks, causal_mask
from .last_layer import Stored, only_columns
from .positions import exact_positions, rope_depends_on_length
from .tricks import pays
from .windows import short_windows, windows_of

WORTH = 0.5
"""Largest share of columns for which choosing them pays."""
SHARED = 0.05
"""Smallest share of tokens to save for which a pass of their own for the common beginning pays."""
_known: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


class _Keys:
    """A layer's cache that keeps its first keys and values and answers with them ever after.

    Args:
        beginning: the cache whose keys and values go before them.
    """

    def __init__(self, beginning: _Beginning | None) -> None:
        self.beginning = beginning
        self.kept: tuple[Tensor, Tensor] | None = None

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        if self.kept is None:
            self.kept = (
                (keys, values)
                if self.beginning is None
                else self.beginning.update(keys, values, layer)
            )
            # What comes after it in the layer would be computed for every column.
            raise Stored
        return self.kept


class _Beginning(Cache):  # type: ignore[misc]
    """Keys and values of tokens that all rows share, with their gradients.

    They are first stored, then put before each row's.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.full = False

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.full:
            self.kept[layer] = keys, values
            return keys, values
        # Expanded, so that the gradients of all rows add up in the one pass that made them.
        first, second = (
            torch.cat([old.expand(len(new), *old.shape[1:]), new], dim=-2)
            for old, new in zip(self.kept[layer], (keys, values), strict=True)
        )
        return first, second

    def get_seq_length(self, layer_idx: int = 0, *_: Any) -> int:
        return self.kept[layer_idx][0].shape[-2] if self.full else 0


def hidden_states(decoder: nn.Module, tokens_BL: Tensor, shared: int = 0) -> Tensor:
    """Compute the last hidden states [B, L - shared, D] of right-padded rows.

    Args:
        shared: so many first tokens are the same in all rows; theirs are not returned.
    """
    _check_length(decoder, tokens_BL)
    # A layer that is called again in the backward pass has to compute as it did before.
    blocks = contextlib.nullcontext() if _recomputes(decoder) else CausalBlocks()
    if not shared:
        with blocks:
            hidden_BLD: Tensor = decoder(input_ids=tokens_BL, use_cache=False).last_hidden_state
        return hidden_BLD
    windows = windows_of(decoder)
    assert windows is not None, "rows share a beginning only where layers keep keys and values"
    width, like = tokens_BL.shape[1], decoder.get_input_embeddings().weight  # type: ignore[operator]
    position_1L = torch.arange(width, device=tokens_BL.device)[None]

    mask = cache(lambda window: causal_mask(0, width, like, window)[None, None])
    beginning = _Beginning()
    # The first row stands for all of them.
    decoder(
        input_ids=tokens_BL[:1, :shared],
        position_ids=position_1L[:, :shared],
        attention_mask=windows.masks(lambda window: mask(window)[..., :shared, :shared])[0],
        past_key_values=beginning,
        use_cache=True,
    )
    beginning.full = True
    masks, each = windows.masks(lambda window: mask(window)[..., shared:, :])
    with CausalBlocks(each):
        output = decoder(
            input_ids=tokens_BL[:, shared:],
            position_ids=position_1L[:, shared:],
            attention_mask=masks,
            past_key_values=beginning,
            use_cache=True,
        )
    hidden_BSD: Tensor = output.last_hidden_state
    return hidden_BSD


def hidden_before(decoder: nn.Module, tokens_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Compute the last hidden states [N, D] of the tokens before those under the mask.

    They come in row-major order.

    Args:
        decoder: a model without its head.
        tokens_BL: int64, right-padded.
        mask_BL: bool, False in column 0.
    """
    _check_length(decoder, tokens_BL)
    rows_N, columns_N = mask_BL.nonzero(as_tuple=True)
    counts_B = mask_BL.sum(1)
    most = int(counts_B.max()) if len(rows_N) else 0
    worth = pays(tokens_BL.device).last_layer and 0 < most <= WORTH * tokens_BL.shape[1]
    if not worth or not narrows(decoder):
        return hidden_states(decoder, tokens_BL)[rows_N, columns_N - 1]
    # A pass of its own is shorter than the rows, and so frequencies that follow its length differ.
    apart = rope_depends_on_length(decoder.config) or not pays(tokens_BL.device).beginnings
    # No state that is read may lie in the beginning, of which none is returned.
    shared = 0 if apart else _shared(tokens_BL, int(columns_N.min()) - 1)
    first_B = counts_B.cumsum(0) - counts_B
    place_N = torch.arange(len(rows_N), device=tokens_BL.device) - first_B[rows_N]
    # Rows with fewer columns to read are filled up with one that exists; nobody looks at it.
    at_BN = torch.full((len(tokens_BL), most), shared, device=tokens_BL.device)
    at_BN[rows_N, place_N] = columns_N - 1
    return _narrowed(decoder, tokens_BL, at_BN, shared)[rows_N, place_N]


def _check_length(decoder: nn.Module, tokens_BL: Tensor) -> None:
    """Raise UserError for rows whose length would change how shorter positions are encoded."""
    width, exact = tokens_BL.shape[1], exact_positions(decoder.config)
    if exact is not None and width > exact and rope_depends_on_length(decoder.config):
        raise UserError(
            f"a row of {width} tokens: beyond {exact} this model's position encoding depends on the"
            " longest row of a batch, so log-probabilities would depend on what else is in it"
        )


def _shared(tokens_BL: Tensor, most: int) -> int:
    """Count the first tokens that are the same in all rows, at most so many.

    0 where they are not worth a pass of their own.
    """
    equal_L = (tokens_BL[:, :most] == tokens_BL[:1, :most]).all(0)
    shared = int(equal_L.long().cumprod(0).sum())
    saved = shared * (len(tokens_BL) - 1)
    return shared if saved > SHARED * tokens_BL.numel() else 0


def narrows(decoder: nn.Module) -> bool:
    """Tell whether the last layer of this model can be computed for some columns only."""
    layers = getattr(decoder, "layers", None)
    if not layers or _recomputes(decoder) or windows_of(decoder) is None:
        return False
    if getattr(decoder.config, "_attn_implementation", None) not in ("sdpa", "eager"):
        return False
    if decoder not in _known:
        _known[decoder] = _same(decoder)
    return _known[decoder]


def _recomputes(decoder: nn.Module) -> bool:
    """Tell whether gradient checkpointing calls layers again in the backward pass.

    Neither hooks nor modes of ours are there then.
    """
    return any(
        getattr(layer, "gradient_checkpointing", False) for layer in getattr(decoder, "layers", ())
    )


def _same(decoder: nn.Module) -> bool:
    """Compare the narrow and the full computation on a few tokens."""
    training = [module for module in decoder.modules() if module.training]
    decoder.eval()
    try:
        weight = decoder.get_input_embeddings().weight  # type: ignore[operator]
        exact = torch.autocast(weight.device.type, enabled=False)
        with torch.no_grad(), exact, short_windows(decoder):
            tokens_BL = (torch.arange(16, device=weight.device) * 7 + 1).view(2, 8) % weight.shape[
                0
            ]
            tokens_BL[:, :3] = tokens_BL[:1, :3]
            # Out of order and repeated, as filled up rows are.
            at_BN = torch.tensor([[3, 5, 4], [7, 3, 3]], device=weight.device)
            full_BLD = hidden_states(decoder, tokens_BL)
            full_BND = full_BLD[torch.arange(2, device=weight.device)[:, None], at_BN]
            tolerance = (1e-4 if full_BND.dtype == torch.float32 else 0.05) * float(
                full_BND.float().abs().max()
            )
            return all(
                torch.allclose(
                    _narrowed(decoder, tokens_BL, at_BN, n).float(),
                    full_BND.float(),
                    rtol=0,
                    atol=tolerance,
                )
                for n in (0, 3)
            )
    except (
        Exception
    ):  # models differ in more ways than can be listed; computing in full is always right
        return False
    finally:
        for module in training:
            module.training = True


def _narrowed(decoder: nn.Module, tokens_BL: Tensor, at_BN: Tensor, shared: int) -> Tensor:
    """Compute the last hidden states [B, N, D] of the columns `at_BN`.

    The first `shared` columns are the same in all rows.
    """

    def store(hidden_BSD: Tensor, cache: Any) -> _Keys | None:
        if shared and hidden_BSD.shape[1] == shared and not cache.full:
            return None  # the pass of the beginning
        return _Keys(cache)

    windows = windows_of(decoder)

    def mask(_: Tensor | None, hidden_BND: Tensor) -> Tensor:
        # The layer's own mask, where it has one, takes its queries for neighbours in order.
        key_L = torch.arange(tokens_BL.shape[1], device=at_BN.device)
        unseen_BNL = key_L > at_BN[:, :, None]
        if windows is not None and windows.last is not None:
            unseen_BNL |= key_L <= at_BN[:, :, None] - windows.last
        mask_B1NL = torch.zeros(unseen_BNL.shape, dtype=hidden_BND.dtype, device=at_BN.device)
        return mask_B1NL.masked_fill_(unseen_BNL, torch.finfo(hidden_BND.dtype).min)[:, None]

    with only_columns(decoder.layers[-1], at_BN - shared, store, mask):  # type: ignore[index, arg-type]
        return hidden_states(decoder, tokens_BL, shared)
