"""Reward ``progress``: how much closer to the goal did this turn bring the world?"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field

from ..agents.agent import LanguageAgent
from ..agents.episode import Episode, Group, StopReason
from ..foundation.errors import UserError
from ..foundation.plugins import Need
from .base import TurnReward


class Progress(TurnReward):
    """Differences of the world's potential, a number in [0, 1] that is 1 at success.

    ``r_t = gamma * Phi(s_t) - Phi(s_{t-1})``, with Phi(s_0) the potential before the first turn.
    With ``gamma`` 1 an episode's rewards sum to the progress it made. With ``invariant`` Phi of a
    terminal state is 0: the discounted sum is then ``-Phi(s_0)`` for every finished episode,
    whatever it did, so that the best policy of the other rewards stays the best one; the last turn
    gives back everything that was paid in advance.

    Paper: "Policy Invariance Under Reward Transformations" (Ng, Harada, Russell, 1999).

    Edge cases: steps away from the goal are negative; the turn limit of the task and the context
    limit finish an episode, else stalling next to the goal would pay; one that a curriculum's
    shorter limit cut keeps its last potential in both forms; `gamma` must be the estimator's for
    the invariance to hold, and ``gae`` must have its default `limit`.

    Raises:
        UserError: the world did not report its potential.

    Source: standard in the field.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.PROGRESS})
    name: Literal["progress"] = "progress"
    gamma: float = Field(1.0, ge=0, le=1, description="discount of the potential after the turn")
    invariant: bool = Field(
        False, description="count the potential of terminal states as 0 (policy-invariant shaping)"
    )

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        """Pay every turn the difference that it made to the world's potential."""
        return [self._differences(episode) for episode in group]

    def _differences(self, episode: Episode) -> list[float]:
        potentials = list(_potentials(episode)) if episode.turns else [0.0]
        if self.invariant and episode.stop is not StopReason.CURRICULUM_LIMIT:
            potentials[-1] = 0.0
        return [self.gamma * after - before for before, after in pairwise(potentials)]


def _potentials(episode: Episode) -> Iterator[float]:
    for t, value in enumerate([episode.start_progress, *(turn.progress for turn in episode.turns)]):
        if value is None:
            when = "before the first turn" if t == 0 else f"after turn {t}"
            raise UserError(
                f"reward 'progress': {episode.task.env} reported no progress {when} of task"
                f" '{episode.task.id}'; use a world that has this potential, or the reward"
                " 'outcome' or 'environment'"
            )
        yield value
