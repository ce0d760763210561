"""Task: one problem instance, as data.

An environment instance plus a Task plus a list of actions determines everything that follows, which
is what makes groups, replay, resume and evaluation sets possible. A Task is frozen and travels as
JSON.

    >>> Task(env="textworld/coin-v0", params={"level": 5}, seed=7, split="train").id
    'textworld/coin-v0?level=5#7'
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

from pydantic import BaseModel, ConfigDict, Field

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
SEEDS_PER_SPLIT = 1_000_000


def seeds_of(split: Split, count: int, span: int = SEEDS_PER_SPLIT) -> range:
    """Return the first `count` seeds of a split's own range, which has `span` of them.

    train begins at 0, valid at `span`, test at twice that.
    """
    first = span * SPLITS.index(split)
    return range(first, first + count)


def split_of(seed: int, span: int = SEEDS_PER_SPLIT) -> Split:
    """Return the split in whose range a seed lies; all seeds from twice `span` on are test."""
    return SPLITS[min(seed // span, len(SPLITS) - 1)]


class Task(BaseModel):
    """A frozen, JSON-serialisable description of one problem instance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    env: str = Field(description="registered id, e.g. 'textworld/quest-v0'")
    params: dict[str, Any] = Field(
        default_factory=dict, description="parameters of the world, as JSON values"
    )
    seed: int = Field(
        ge=0, description="number that picks the instance among those with these parameters"
    )
    split: Split = Field(
        "train", description="set that the task belongs to; never changes what the instance is"
    )

    @property
    def id(self) -> str:
        """Name the task by env, params and seed, whatever the split is called.

        The name is readable, and the same for equal tasks.
        """
        params = "&".join(
            f"{k}={json.dumps(v, sort_keys=True).strip(chr(34))}"
            for k, v in sorted(self.params.items())
        )
        return f"{self.env}{'?' + params if params else ''}#{self.seed}"

    @property
    def family(self) -> str:
        """Name what success rates are grouped by: the id without the seed."""
        return self.id.rpartition("#")[0]

    def __hash__(self) -> int:
        return hash(self.id)


class LazyTasks(Sequence[Task]):
    """Tasks that are made when they are asked for. Subclasses say how many (`__len__`) and which
    (`_at`).
    """

    @abstractmethod
    def _at(self, index: int) -> Task:
        """Make the task at an index from 0."""

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | Sequence[Task]:
        """Make the task at an index, or the list of a slice."""
        chosen = range(len(self))[index]
        return self._at(chosen) if isinstance(chosen, int) else [self._at(i) for i in chosen]


class SeededTasks(LazyTasks):
    """Tasks of one environment and split, one per seed, in order."""

    def __init__(
        self, env: str, params: Mapping[str, Any], split: Split, seeds: Sequence[int]
    ) -> None:
        self._env, self._params, self._split, self._seeds = env, dict(params), split, seeds

    def __len__(self) -> int:
        return len(self._seeds)

    def _at(self, index: int) -> Task:
        return Task(env=self._env, params=self._params, seed=self._seeds[index], split=self._split)
