"""Curriculum ``staged``: measure how hard each task is, then play from easy to hard."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, PrivateAttr

from ...agents.episode import Group
from ...envs import Task
from .base import Measured
from .prioritized import draw


class Staged(Measured):
    """A pass over all tasks, then stages of equal size from those that were solved most often to
    those solved least.

    A stage is left when the mean success of its last `window` groups reaches `threshold`, or after
    `patience` groups. A share `replay` of the tasks comes from earlier stages.

    Edge cases: tasks of which every episode failed (an error of the world or the engine) come last;
    ties in difficulty keep the order of the tasks; the last stage is never left; fewer tasks than
    stages make fewer stages.

    Paper: CRAFT-GUI (arXiv 2508.11360). Source: inspired by it: the paper orders by length and
    type, this by measurement.
    """

    name: Literal["staged"] = "staged"
    stages: int = Field(3, ge=1, description="number of stages")
    threshold: float = Field(0.7, ge=0, le=1, description="mean success that ends a stage")
    window: int = Field(
        20, ge=1, description="number of groups over which the mean success is taken"
    )
    patience: int = Field(200, ge=1, description="groups after which a stage ends in any case")
    replay: float = Field(0.2, ge=0, lt=1, description="share of tasks from earlier stages")

    _stage: int = PrivateAttr(0)
    _seen: int = PrivateAttr(0)
    _recent: deque[float] = PrivateAttr(default_factory=deque)
    _order: list[str] = PrivateAttr(default_factory=list)

    def sample(self, tasks: Sequence[Task], count: int, drawn: int, seed: int) -> list[Task]:
        """Draw from the stage that is on, and some from before it."""
        if drawn < len(tasks):
            return [tasks[i % len(tasks)] for i in range(drawn, drawn + count)]
        by_id = {task.id: task for task in tasks}
        if not self._order:
            self._order.extend(task.id for task in sorted(tasks, key=self._hardness))
        stages = min(self.stages, len(tasks))
        bounds = [len(tasks) * s // stages for s in range(stages + 1)]
        now = [by_id[name] for name in self._order[bounds[self._stage] : bounds[self._stage + 1]]]
        before = [by_id[name] for name in self._order[: bounds[self._stage]]]
        rng = random.Random(f"{seed}/{drawn}")
        again = sum(rng.random() < self.replay for _ in range(count)) if before else 0
        return draw(now, [1.0] * len(now), count - again, rng) + draw(
            before, [1.0] * len(before), again, rng
        )

    def _hardness(self, task: Task) -> tuple[bool, float]:
        return self.broken(task), -self.success(task)

    def observe(self, groups: Sequence[Group]) -> None:
        """Add what was played, and go on to the next stage if this one is done."""
        super().observe(groups)
        if not self._order:
            return
        stages = min(self.stages, len(self._order))
        bounds = [len(self._order) * s // stages for s in range(stages + 1)]
        for group in groups:
            if group.task.id in self._order[bounds[self._stage] : bounds[self._stage + 1]] and len(
                group
            ):
                self._seen += 1
                self._recent.append(sum(episode.success for episode in group) / len(group))
        while len(self._recent) > self.window:
            self._recent.popleft()
        done = (
            len(self._recent) == self.window
            and sum(self._recent) / self.window >= self.threshold - 1e-9
        )
        if (done or self._seen >= self.patience) and self._stage + 1 < stages:
            self._stage, self._seen = self._stage + 1, 0
            self._recent.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the measurement, the order and the place in it."""
        mine = {
            "stage": self._stage,
            "seen": self._seen,
            "recent": list(self._recent),
            "order": list(self._order),
        }
        return super().state_dict() | mine

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the measurement, the order and the place in it."""
        super().load_state_dict(state)
        self._stage, self._seen = state["stage"], state["seen"]
        self._recent, self._order = deque(state["recent"]), list(state["order"])
