"""Reward ``milestones``: the share of a task's sub-goals of one kind that were reached."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..agents.agent import LanguageAgent
from ..agents.episode import Episode, Group
from ..foundation.errors import UserError
from .base import TurnReward


class Milestones(TurnReward):
    """Sub-goals that the world reports, each paid once, on the turn that reached it.

    ``r_t = (milestones of the kind first reported after turn t) / total``

    A milestone is of a kind if it is called like it, or like it and a colon: 'constraint:budget' is
    of the kind 'constraint'. Without a kind all of them count. An episode that reaches `total` of
    them is paid 1; as levels of a ``gate``, kinds make a hierarchy of what a task asks for.

    Edge cases: a milestone that is lost and reached again is not paid again; a world without
    milestones pays 0.

    Raises:
        UserError: an episode reached more milestones of the kind than `total`.

    Source: standard in the field.
    """

    name: Literal["milestones"] = "milestones"
    kind: str = Field(
        "",
        description="which milestones count: their name, or its part before the colon; '' for all",
    )
    total: int = Field(1, ge=1, description="number of milestones that a task has")

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        """Pay every turn the share of the task's sub-goals that it was the first to reach."""
        return [self._shares(episode) for episode in group]

    def _shares(self, episode: Episode) -> list[float]:
        reached: set[str] = set()
        shares = []
        for turn in episode.turns:
            new = {name for name in turn.milestones if self._counts(name)} - reached
            reached |= new
            shares.append(len(new) / self.total)
        if len(reached) > self.total:
            raise UserError(
                f"reward 'milestones': task '{episode.task.id}' has {len(reached)} of the kind"
                f" '{self.kind}' at least: total must not be {self.total}"
            )
        return shares

    def _counts(self, name: str) -> bool:
        return not self.kind or name == self.kind or name.startswith(f"{self.kind}:")
