"""Renamings of things and rooms: the same game with names that cannot be memorised.

Words change places only within their kind, so a key stays a key and a box something to open.

    >>> renamings(1)[0]["lamp"]
    'broccoli'
"""

from __future__ import annotations

from collections.abc import Mapping

from ..renaming import exchanged
from .coin import COMPASS

KINDS: tuple[tuple[str, ...], ...] = (
    tuple(
        "attic basement bathroom bedchamber bedroom canteen cellar chamber closet cookery cookhouse"
        " cubicle garage kitchen kitchenette launderette laundromat lounge office pantry parlor"
        " playroom restroom salon sauna scullery shower studio study vault washroom"
        " workshop".split()
    ),
    tuple(
        "basket box bureau cabinet case chest coffer crate drawer dresser freezer fridge locker"
        " portmanteau refrigerator safe suitcase toolbox trunk".split()
    ),
    tuple(
        "armchair bed bench board bookshelf bowl chair couch counter desk mantelpiece mantle pan"
        " pedestal plate platter rack recliner saucepan shelf slab stand table workbench".split()
    ),
    tuple("key keycard latchkey passkey".split()),
    tuple("door gate gateway hatch passageway portal".split()),
    tuple(
        "apple banana binder blanket blender book broccoli broom bug burger butterfly cabbage candy"
        " cane carrot cashew cauliflower cd cloak coconut controller cookie cucumber cushion disk"
        " durian dvd folder fondue fork frisbee glass glove grape hat honeydew insect kettle"
        " keyboard kiwi knife ladle lamp lampshade laptop legume lightbulb manuscript mat melon"
        " monitor mop mouse mug napkin novel onion peanut pear pen pencil pillow pizza plant poem"
        " potato printer salad sandwich scarf shadfly shirt shoe sock sponge spoon spork staple"
        " stapler strawberry synthesizer tablet teacup teapot teaspoon telephone textbook towel tv"
        " vacuum watermelon whisk worm".split()
    ),
    tuple("red blue chartreuse purple violet orange yellow green brown teal cyan".split()),
    tuple("rectangular cuboid spherical formless vanilla lavender cake fudge soap".split()),
    tuple("microsoft american canadian henderson".split()),
    tuple("0123456789"),
)
"""Rooms, containers, supporters, keys, doors, things to carry: the nouns of one word in TextWorld's
house theme, and the words that tell a key and its lock from others: colours, shapes and scents,
makers, numbers."""


def renamings(count: int) -> tuple[Mapping[str, str], ...]:
    """Make `count` renamings: names change within their kind, and the map is turned or mirrored."""
    turns: tuple[Mapping[str, str], ...] = ({}, *COMPASS)
    return tuple({**exchanged(KINDS, i), **turns[i % len(turns)]} for i in range(count))
