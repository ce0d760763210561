"""Curriculum: which tasks are played next. The one hook is `sample`::

class First(Curriculum):
    name: Literal["first"] = "first"

    def sample(self, tasks, count, step, seed):
        return list(tasks[:count])
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from ...envs import Task
from ...plugins import Plugin, Slot


class Curriculum(Plugin):
    """Base of the slot ``training.curriculum``."""

    @abstractmethod
    def sample(self, tasks: Sequence[Task], count: int, step: int, seed: int) -> list[Task]:
        """`count` tasks for this step; depends only on the arguments and on what `load_state_dict` restores."""


CURRICULA: Slot[Curriculum] = Slot("turnrl.training.curriculum", Curriculum)
