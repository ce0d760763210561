"""The last layer of a decoder, computed for some tokens only.

All layers but the last need every token, because later tokens attend to them. Of the last one only
the keys and values of every token matter, and the hidden states that somebody reads: its queries,
output projection and feed-forward part can be skipped elsewhere, a fifth of the work of a
four-layer model. The layer is called twice from a hook: until it has handed its keys and values to
its cache, which then raises `Stored`, and again with the columns that are read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

_CACHES = ("past_key_values", "layer_past")
"""What layers call the object that keeps their keys and values."""
_PER_COLUMN = ("position_ids", "position_embeddings")
"""Arguments of a layer with columns, [B or 1, L, ...], beside the hidden states and the mask."""


class Stored(Exception):
    """Leaves a layer as soon as its keys and values are stored."""


class ColumnStore(Protocol):
    """What the layer is given for its cache."""

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Store keys and values of all columns and raise `Stored`, at the first call.

        The second one is answered with those that the chosen columns see.
        """


@contextlib.contextmanager
def only_columns(
    layer: nn.Module,
    at_BN: Tensor,
    store: Callable[[Tensor, Any], ColumnStore | None],
    mask: Callable[[Tensor | None, Tensor], Tensor],
) -> Iterator[None]:
    """Let a layer compute only some columns of its output, [B, N, D].

    Args:
        layer: the last layer of a decoder.
        at_BN: int64, the columns of its input.
        store: what takes the place of the layer's cache, given its input [B, L, D] and that cache;
            None leaves this call alone.
        mask: the attention mask [B, 1, N, K] of the columns, given the layer's own and the columns
            of its input [B, N, D].
    """
    row_B1 = torch.arange(len(at_BN), device=at_BN.device)[:, None]

    def pick(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(pick(part) for part in x)
        return x.expand(len(at_BN), *x.shape[1:])[row_B1, at_BN]

    def hook(
        module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        hidden_BLD, *rest = args
        name = next(name for name in _CACHES if name in kwargs)
        columns = store(hidden_BLD, kwargs[name])
        if columns is None:
            return None
        kwargs = kwargs | {name: columns}
        with contextlib.suppress(Stored):
            module.forward(*args, **kwargs)
        hidden_BND = pick(hidden_BLD)
        picked = {name: pick(kwargs[name]) for name in _PER_COLUMN if kwargs.get(name) is not None}
        picked["attention_mask"] = mask(kwargs.get("attention_mask"), hidden_BND)
        return (hidden_BND, *rest), kwargs | picked

    handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
