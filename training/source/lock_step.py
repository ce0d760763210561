"""LockStep: a source of groups of the newest policy: nothing is learnt while they are played."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from ...agents.agent import LanguageAgent
from ...envs import Task
from ...envs.pool.pool import EnvPool
from .. import boundaries
from ..curriculum.base import Curriculum
from .base import Played
from .rollout import rollout


@dataclass(slots=True)
class LockStep:
    """Asks a curriculum for tasks, plays each of them as one group, and tells the curriculum."""

    agent: LanguageAgent
    pool: EnvPool
    curriculum: Curriculum
    tasks: Sequence[Task]
    """To choose from."""
    renamings: Sequence[Mapping[str, str]]
    """Symmetries of the world that the episodes of a group take turns with."""
    group_size: int
    concurrency: int
    """Episodes that are played at once."""
    steps: int
    """Length of the stage."""
    max_turns: int
    """The turn limit that belongs to the tasks."""
    seed: int
    ask_expert: bool = False
    """Episodes remember the plan of the world's expert."""
    keep: bool = False
    """Conversations stay open until what was played is rewarded."""
    drawn: int = 0
    """Tasks that were drawn so far in the stage."""
    _step: int = -1
    _first: int = 0
    """Groups that were played before in this step."""

    async def next(self, step: int, wanted: int) -> Played:
        """Play `wanted` more groups for a step of the stage."""
        if step != self._step:
            self._step, self._first = step, 0
        tasks = boundaries.next_tasks(self.curriculum, self.tasks, wanted, self.drawn, self.seed)
        self.drawn += wanted
        played = await self.play(tasks)
        boundaries.observe(self.curriculum, played.groups)
        return played

    async def play(self, tasks: Sequence[Task], hints: Sequence[str] = ()) -> Played:
        """Play these tasks, a group each, for the step of the last call of `next`.

        The curriculum neither chooses them nor is told how they went.
        """
        limit = boundaries.turn_limit(self.curriculum, self.max_turns, self._step / self.steps)
        first, self._first = self._first, self._first + len(tasks)
        with ExitStack() as conversations:
            groups, metrics = await rollout(
                tasks,
                self.agent,
                self.pool,
                group_size=self.group_size,
                step=self._step,
                seed=self.seed,
                max_turns=limit,
                task_turns=self.max_turns,
                concurrency=self.concurrency,
                renamings=self.renamings,
                first=first,
                hints=hints,
                ask_expert=self.ask_expert,
                keep=conversations if self.keep else None,
            )
            return Played(groups, metrics, conversations.pop_all())
