"""The variations of tasks that a split holds, without a Java process after the first time::

    pairs(ScienceSettings(), "test")[:2]  # [('boil', 21), ('melt', 21)]: task by task in turn

The simulator is asked once per version, and its answer is kept in the cache.
"""

from __future__ import annotations

import functools
import json
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path

from ...foundation.cache import cache_dir, make_once
from ..task import LazyTasks, Split, Task
from .settings import ScienceSettings

_HEAP_MB = 128
Pairs = tuple[tuple[str, int], ...]


def table() -> dict[str, dict[str, list[int]]]:
    """Return upstream's variations by task name and split ('valid' is its dev)."""
    return _read(cache_dir("scienceworld") / f"variations-{version('scienceworld')}.json")


@functools.lru_cache(maxsize=2)
def _read(path: Path) -> dict[str, dict[str, list[int]]]:
    def ask(file: Path) -> None:
        from .game import variations

        file.write_text(json.dumps(variations(_HEAP_MB)), "utf-8")

    found: dict[str, dict[str, list[int]]] = json.loads(make_once(path, ask).read_text("utf-8"))
    return found


def pairs(settings: ScienceSettings, split: Split) -> Pairs:
    """List (task name, variation) pairs of a split: every task's first, then every task's second.

    So the first tasks of a split are a sample of all kinds, whatever their numbers of variations
    are.

    So the first tasks of a split are a sample of all kinds, whatever their numbers of variations
    are.
    """
    level, source = settings.generalisation, split
    unseen = level == "L2" and split != "train"
    names = settings.names if level is None else settings.played(unseen=unseen)
    if level == "L0":
        source = "train"
    found = table()
    columns = [[(name, variation) for variation in found[name][source]] for name in names]
    return tuple(pair for row in zip_longest(*columns) for pair in row if pair is not None)


class VariationTasks(LazyTasks):
    """Tasks of a split, made when they are asked for. Each names its own task type and
    simplification, nothing else.
    """

    def __init__(self, env: str, settings: ScienceSettings, split: Split) -> None:
        self._env, self._simplification, self._split = env, settings.simplification, split
        self._pairs = pairs(settings, split)

    def __len__(self) -> int:
        return len(self._pairs)

    def _at(self, index: int) -> Task:
        name, variation = self._pairs[index]
        params = {"task": name, "simplification": self._simplification}
        return Task(env=self._env, params=params, seed=variation, split=self._split)
