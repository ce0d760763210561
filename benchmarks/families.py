"""One environment of every family, as the benchmarks of all worlds play it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import turnrl
from turnrl import Task, UserError

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "coin": ("textworld/coin-v0", {"level": 8}),
    "quest": ("textworld/quest-v0", {"rooms": 2, "objects": 3, "quest_length": 4}),
    "cooking": ("textworld/cooking-v0", {"recipe": 1, "take": 1, "cook": True}),
    "search": ("search/qa-v0", {}),
    "webshop": ("shopping/webshop-v0", {}),
    "assistant": ("shopping/assistant-v0", {}),
    "household": ("household/home-v0", {}),
    "scienceworld": ("scienceworld/task-v0", {}),
}
"""Name -> id and parameters."""


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add the option that picks some of the families."""
    parser.add_argument(
        "--families", nargs="+", choices=sorted(FAMILIES), default=list(FAMILIES), metavar="NAME"
    )


def prepared(family: str, count: int) -> tuple[list[Task], str]:
    """Prepare a family's first training tasks, and return them; or none, and what is missing."""
    name, params = FAMILIES[family]
    try:
        env = turnrl.make(name, **params)
        tasks: Sequence[Task] = env.tasks("train")
        env.prepare(tasks[:count])
        env.close()
    except UserError as error:
        return [], str(error)
    return list(tasks[:count]), ""
