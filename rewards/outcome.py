"""Reward ``outcome``: was the task solved?"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..agents.agent import LanguageAgent
from ..agents.episode import Group
from .base import TurnReward


class Outcome(TurnReward):
    """One number at the end of the episode: 1 for success, `failure` otherwise.

    ``r_t = 0`` before the last turn; ``r_last = 1`` if the world's own verdict is success, else
    ``failure``.

    Edge cases: an ended episode that was not won, a truncated one and one with a high score are
    failures alike; an episode without turns yields an empty list.

    Source: standard in the field.
    """

    name: Literal["outcome"] = "outcome"
    failure: float = Field(
        0.0, description="value on the last turn of an episode that did not succeed"
    )

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        """Pay every episode 1 for success, else `failure`, on its last turn, and 0 before."""
        return [
            [0.0] * (len(episode.turns) - 1)
            + [1.0 if episode.success else self.failure] * bool(episode.turns)
            for episode in group
        ]
