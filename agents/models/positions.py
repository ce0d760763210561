"""Positions: the length up to which a position encoding depends on the position alone.

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


def text_config(config: Any) -> Any:
    """Return the part of a config that is about text; models that also see have it inside."""
    part = getattr(config, "get_text_config", None)
    return config if part is None else part(decoder=True)


def rope_depends_on_length(config: Any) -> bool:
    """Tell whether rotary frequencies follow the length.

    One config may have them for all layers or per layer type.
    """
    ropes = _ropes(text_config(config))
    return any(_is(rope, (*_STRETCHED, *_GROWING)) for rope in ropes)


def exact_positions(config: Any) -> int | None:
    """Count the positions whose encoding depends on nothing else; None if the config is silent."""
    config = text_config(config)
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
    """List what a config says about rotary encodings, by layer type or at once.

    Configs say it in a new or in an old form.
    """
    for name in ("rope_parameters", "rope_scaling"):
        said = getattr(config, name, None)
        if isinstance(said, dict):
            yield from (said, *(part for part in said.values() if isinstance(part, dict)))


def _is(rope: dict[str, Any], kinds: tuple[str, ...]) -> bool:
    return any(
        kind in str(rope.get(key)).split("_") for kind in kinds for key in ("rope_type", "type")
    )
