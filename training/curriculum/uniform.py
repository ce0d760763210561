"""Every task equally often: a fresh seeded shuffle per pass over the tasks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from ...envs import Task
from .base import Curriculum


class Uniform(Curriculum):
    """Passes over all tasks in an order that is shuffled anew for each pass; tasks of one step
    differ if they can.
    """

    name: Literal["uniform"] = "uniform"

    def sample(self, tasks: Sequence[Task], count: int, drawn: int, seed: int) -> list[Task]:
        """Take tasks number `drawn` onwards of the endless sequence of passes."""
        chosen: list[Task] = []
        while len(chosen) < count:
            epoch, offset = divmod(drawn + len(chosen), len(tasks))
            order = list(range(len(tasks)))
            random.Random(f"{seed}/{epoch}").shuffle(order)
            chosen += [tasks[i] for i in order[offset : offset + count - len(chosen)]]
        return chosen
