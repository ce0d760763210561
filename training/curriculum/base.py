"""Curriculum: which tasks are played next. The one hook is `sample`::

    class First(Curriculum):
        name: Literal["first"] = "first"

        def sample(self, tasks, count, drawn, seed):
            return list(tasks[:count])

What a curriculum remembers is saved with the run, so that a resume draws the same tasks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import PrivateAttr

from ...agents.episode import Group
from ...envs import Task
from ...foundation.plugins import Plugin, Slot


class Curriculum(Plugin):
    """Base of the slot ``training.curriculum``."""

    @abstractmethod
    def sample(self, tasks: Sequence[Task], count: int, drawn: int, seed: int) -> list[Task]:
        """Draw the next `count` tasks, by the arguments and what `load_state_dict` restores alone.

        Args:
            tasks: of the stage.
            drawn: how many were drawn before in this stage.
        """

    def observe(self, groups: Sequence[Group]) -> None:
        """Take in what was played, before any of it is dropped."""

    def max_turns(self, limit: int, progress: float) -> int:
        """Choose the turn limit of now: `limit`, or fewer.

        `progress` is the share of the stage's steps that are done.
        """
        return limit


class Measured(Curriculum):
    """Base of those that remember how often each task was solved."""

    _rates: dict[str, list[float]] = PrivateAttr(default_factory=dict)

    def observe(self, groups: Sequence[Group]) -> None:
        """Add successes, plays, and episodes that failed."""
        for group in groups:
            entry = self._rates.setdefault(group.task.id, [0.0, 0.0, 0.0])
            entry[0] += sum(episode.success for episode in group)
            entry[1] += len(group)
            entry[2] += len(group.lost)

    def success(self, task: Task) -> float:
        """Compute the share of a task's episodes that were successes; 0 if it was never played."""
        won, played, _ = self._rates.get(task.id, (0.0, 0.0, 0.0))
        return won / played if played else 0.0

    def broken(self, task: Task) -> bool:
        """Tell whether every episode of the task failed, so that its difficulty is unknown."""
        _, played, failed = self._rates.get(task.id, (0.0, 0.0, 0.0))
        return failed > 0 and not played

    def state_dict(self) -> dict[str, Any]:
        """Return successes, plays and failed episodes by task."""
        return {"rates": self._rates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore successes, plays and failed episodes by task."""
        self._rates.clear()
        self._rates.update({task: list(entry) for task, entry in state["rates"].items()})


CURRICULA: Slot[Curriculum] = Slot("turnrl.training.curriculum", Curriculum, "Curricula")
