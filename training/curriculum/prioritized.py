"""Curriculum ``prioritized``: tasks that fail are played more often."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from ...envs import Task
from .base import Measured


class Prioritized(Measured):
    """Draws tasks with probability proportional to ``max(1 - success, floor)``, success over the
    whole stage so far.

    Tasks of one draw differ if they can; a task that was never played counts as never solved. One
    of which every episode failed (an error of the world or the engine) has the smallest weight: it
    is broken, not hard.

    Edge cases: if all are solved, or none, every task is equally likely.

    Paper: Kimi k1.5 (arXiv 2501.12599). Source: inspired by it and written from general knowledge;
    the floor is ours.
    """

    name: Literal["prioritized"] = "prioritized"
    floor: float = Field(
        0.05, gt=0, le=1, description="smallest weight, that of tasks which are always solved"
    )

    def weights(self, tasks: Sequence[Task]) -> list[float]:
        """Compute the probabilities of tasks, not normalised."""
        return [
            self.floor if self.broken(task) else max(1.0 - self.success(task), self.floor)
            for task in tasks
        ]

    def sample(self, tasks: Sequence[Task], count: int, drawn: int, seed: int) -> list[Task]:
        """Draw weighted tasks, without repeats until every task is in."""
        return draw(tasks, self.weights(tasks), count, random.Random(f"{seed}/{drawn}"))


def draw(
    tasks: Sequence[Task], weights: Sequence[float], count: int, rng: random.Random
) -> list[Task]:
    """Draw `count` tasks by weight, again only after all that have a weight were drawn."""
    chosen: list[Task] = []
    left: dict[int, float] = {}
    while len(chosen) < count:
        left = left or {i: weight for i, weight in enumerate(weights) if weight > 0}
        [i] = rng.choices(list(left), list(left.values()))
        del left[i]
        chosen.append(tasks[i])
    return chosen
