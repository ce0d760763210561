"""Names that change places within their kind: what `TextEnv.symmetries` of a world are made of."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence


def exchanged(kinds: Iterable[Sequence[str]], number: int) -> dict[str, str]:
    """Map every name to another of its kind (or itself), one to one, differently for every number.

    >>> exchanged([["cup", "mug", "pan"], ["sofa"]], 1)
    {'cup': 'cup', 'mug': 'pan', 'pan': 'mug', 'sofa': 'sofa'}
    """
    rng = random.Random(number)
    return {
        old: new
        for names in kinds
        for old, new in zip(names, rng.sample(names, len(names)), strict=True)
    }
