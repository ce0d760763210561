"""The simulator's table of sub-goals, read::

    reached(table)       # ['subgoal:move to a new location', 'goal:focus on task object']

The table has two parts, the goals that must come in order and the unordered ones; a line of either
has a number, 'true' or 'false', the kind of goal and its words, with tabs between them.
"""

from __future__ import annotations

from collections import Counter

_PARTS = {"Sequential Subgoals:": "goal", "Unordered and Optional Subgoals:": "subgoal"}


def reached(table: str) -> list[str]:
    """Name the goals of a table that are true, in its order.

    Of equal words the second is called '... (2)'.
    """
    part, found = "", []
    named: Counter[str] = Counter()
    for line in table.splitlines():
        part = _PARTS.get(line.strip(), part)
        cells = line.split("\t", 3)
        if part and len(cells) == 4 and cells[0].strip().isdigit():
            name = f"{part}:{cells[3].strip()}"
            named[name] += 1
            if cells[1].strip() == "true":
                found.append(f"{name} ({named[name]})" if named[name] > 1 else name)
    return found
