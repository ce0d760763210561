"""Display names of PDDL ids: 'cabinet 3' of 'cabinet_bar__plus_00_dot_68_bar_...', numbered as
ALFWorld does.

Source: `Demangler` of alfworld (MIT), whose import would set ALFWORLD_DATA and bring more than text
play needs; a test compares the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


def names_of(ids: Iterable[str]) -> dict[str, str]:
    """Name every PDDL id as ALFWorld does.

    Instances of a type are numbered from the last id in alphabetical order; a name without number
    ends with a blank, as upstream's does.
    """
    ordered = sorted(ids)
    left = Counter(_type(id) for id in ordered if "_bar_" in id)
    names = {}
    for id in ordered:
        if "_bar_" not in id:
            names[id] = f"{_plain(id)} "
            continue
        names[id] = f"{_type(id)} {left[_type(id)]}"
        left[_type(id)] -= 1
    return names


def _type(id: str) -> str:
    return _plain(id.split("_bar_", 1)[0]) + ("basin" if "basin" in id else "")


def _plain(id: str) -> str:
    for word, mark in (("_minus_", "-"), ("_plus_", "+"), ("_dot_", "."), ("_comma_", ",")):
        id = id.replace(word, mark)
    return id
