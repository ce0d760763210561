"""Names of things and receptacles exchanged: the same room cannot be played by memory::

    kinds()[0]                          # ('alarmclock', ..., 'watch', 'wateringcan', 'winebottle')
    renamings()[0]["apple"]             # 'tomato'

Words change places only within their kind, and none of them is a word of the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from ..renaming import exchanged
from .problem import LAMP, receptacle_type
from .source import APPLIANCES, package

COUNT = 31
"""Renamings: with the names as they are, 32 worlds."""


@lru_cache(maxsize=1)
def kinds() -> tuple[tuple[str, ...], ...]:
    """List things to carry, receptacles that are opened, and those that are not.

    All are named as they are shown.

    Appliances and lamps are none of them: what is done with them is not told by the text. Raises
    ImportError.
    """
    files = package()
    plans = [files.plan(number) for number in (*files.seen, *files.unseen)]
    places = {receptacle_type(key) for plan in plans for key in plan.receptacles} - set(
        APPLIANCES.values()
    )
    carried = {thing for things in files.holds.values() for thing in things}
    present = {thing for plan in plans for thing in plan.objects}
    kinds = carried & present - places, places & files.openable, places - files.openable
    return tuple(tuple(sorted(name.lower() for name in kind)) for kind in kinds)


@lru_cache(maxsize=1)
def renamings() -> tuple[Mapping[str, str], ...]:
    """Make renamings under which every name becomes another of its kind.

    Raises ImportError without the package.
    """
    return tuple(exchanged(kinds(), number) for number in range(COUNT))


def names() -> tuple[str, ...]:
    """List every kind of thing, receptacle, appliance and lamp, as it is shown.

    Raises ImportError without the package.
    """
    fixed = sorted(name.lower() for name in (*APPLIANCES.values(), LAMP))
    return (*(name for kind in kinds() for name in kind), *fixed)
