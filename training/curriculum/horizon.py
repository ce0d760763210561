"""Curriculum ``horizon``: short episodes first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from ...agents.episode import Group
from ...envs import Task
from ...foundation.plugins import Plugged
from .base import CURRICULA, Curriculum


class Horizon(Curriculum):
    """The turn limit grows linearly from `first` to the recipe's during the first `share` of the
    stage.

    Which tasks are played is left to another curriculum. An episode that a limit below the recipe's
    cut stops for the reason ``curriculum_limit``: ``gae`` puts a critic's value in place of the
    turns that never came; for all other estimators it counts with the return it had, so they need a
    reward that does not wait for the end.

    Edge cases: a `first` above the recipe's limit is that limit. Evaluation always has the recipe's
    limit.

    Source: standard in the field.
    """

    name: Literal["horizon"] = "horizon"
    first: int = Field(3, ge=1, description="turn limit of the first step")
    share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the stage's steps after which the limit is the full one",
    )
    tasks: Plugged[Curriculum] = Field(
        default_factory=lambda: CURRICULA.build({"name": "uniform"}),
        description="the curriculum that chooses tasks",
    )

    def max_turns(self, limit: int, progress: float) -> int:
        """Compute the turns that are allowed now."""
        grown = self.first + (limit - self.first) * min(progress / self.share, 1.0)
        return min(math.floor(grown + 1e-9), limit)

    def sample(self, tasks: Sequence[Task], count: int, drawn: int, seed: int) -> list[Task]:
        """Let the other curriculum draw tasks."""
        return self.tasks.sample(tasks, count, drawn, seed)

    def observe(self, groups: Sequence[Group]) -> None:
        """Let the other curriculum take in what was played."""
        self.tasks.observe(groups)

    def state_dict(self) -> dict[str, Any]:
        """Return the other curriculum's state."""
        return self.tasks.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the other curriculum's state."""
        self.tasks.load_state_dict(state)
