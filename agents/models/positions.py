"""Positions: up to which length a model's position encoding depends on the position alone.

Rotary frequencies of the kinds ``dynamic`` and ``longrope`` follow the longest row of a batch once
it is longer than the original context: a short request beside a long one would then be another
request, and a trainer, whose batches are others, would compute another policy. Up to the original
context they are fixed: so far such a model is served.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_STRETCHED = ("longrope", "su")
"""Two sets of frequencies: beyond `original_max_position_embeddings` the second one holds."""
_GROWING = ("dynamic",)
"""Frequencies that are computed anew beyond `max_position_embeddings`."""


def rope_depends_on_length(config: Any) -> bool:
    """Whether rotary frequencies, which one config may have for all layers or per layer type,
    follow the length.
    """
    return any(_is(rope, (*_STRETCHED, *_GROWING)) for rope in _ropes(config))


def exact_positions(config: Any) -> int | None:
    """How many positions a model knows whose encoding depends on nothing else; None if its config
    does not say.
    """
    known = getattr(config, "max_position_embeddings", None)
    limits = [] if known is None else [int(known)]
    for rope in _ropes(config):
        original = rope.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        if _is(rope, _STRETCHED) and original:
            limits.append(int(original))
    return min(limits, default=None)


def _ropes(config: Any) -> Iterator[dict[str, Any]]:
    """What a config says about rotary encodings, by layer type or at once, in the new form or the
    old.
    """
    for name in ("rope_parameters", "rope_scaling"):
        said = getattr(config, name, None)
        if isinstance(said, dict):
            yield from (said, *(part for part in said.values() if isinstance(part, dict)))


def _is(rope: dict[str, Any], kinds: tuple[str, ...]) -> bool:
    return any(
        kind in str(rope.get(key)).split("_") for kind in kinds for key in ("rope_type", "type")
    )
