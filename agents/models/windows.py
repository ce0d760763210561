"""Windows: how far the attention layers of a decoder see.

Mistral and Phi-3 look back over one window in every layer; Gemma and others mix layers that do with
layers that see everything. Both are served with explicit masks::

    windows = windows_of(decoder)       # None: a layer keeps more than keys and values
    masks, each = windows.masks(lambda window: mask_B1LK(window))
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from .positions import text_config

_SHORT = 3
"""The window under which a check of few tokens looks at a model."""
_known: WeakKeyDictionary[nn.Module, tuple[int | None, Windows | None]] = WeakKeyDictionary()
"""What was found of a decoder, with the window that its config had then."""


@dataclass(frozen=True, slots=True)
class Windows:
    """How many positions each attention layer sees, its own included; None is all of them."""

    of_layers: tuple[int | None, ...]

    @property
    def last(self) -> int | None:
        """Return the window of the last layer."""
        return self.of_layers[-1]

    def masks(self, mask: Callable[[int | None], Tensor]) -> tuple[Any, tuple[Tensor, ...]]:
        """Make the attention mask of each kind of layer.

        Returns the argument `attention_mask` of the decoder, and the masks in it.
        """
        kinds = set(self.of_layers)
        if len(kinds) == 1:
            only = mask(self.last)
            return only, (only,)
        sliding = next(window for window in kinds if window is not None)
        made = {"full_attention": mask(None), "sliding_attention": mask(sliding)}
        return made, tuple(made.values())


def windows_of(decoder: nn.Module) -> Windows | None:
    """Tell how far the layers of a decoder see.

    None if one of them keeps anything but the keys and values of full or sliding attention.
    """
    config = text_config(decoder.config)
    window: int | None = getattr(config, "sliding_window", None)
    known = _known.get(decoder)
    if known is None or known[0] != window:
        known = _known[decoder] = window, _windows_of(config)
    return known[1]


def _windows_of(config: Any) -> Windows | None:
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        return None
    found: list[int | None] = []
    for layer in DynamicCache(config=config).layers:
        if type(layer) is DynamicLayer:
            found.append(None)
        elif type(layer) is DynamicSlidingWindowLayer:
            found.append(int(layer.sliding_window))
        else:
            return None
    kinds = {window for window in found if window is not None}
    plain = len(kinds) <= 1 and len(found) == config.num_hidden_layers
    return Windows(tuple(found)) if plain else None


@contextlib.contextmanager
def short_windows(decoder: Any) -> Iterator[None]:
    """Let the layers of a decoder see no further than a few tokens, so that few show it."""
    config = text_config(decoder.config)
    window = getattr(config, "sliding_window", None)
    if window is None or window <= _SHORT:
        yield
        return
    config.sliding_window = _SHORT
    try:
        yield
    finally:
        config.sliding_window = window
