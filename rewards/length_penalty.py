"""Reward ``length_penalty``: shorter successes are worth more, and long failures less."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ..agents.agent import LanguageAgent
from ..agents.episode import Episode, Group
from .base import TurnReward, on_last_turn


class LengthPenalty(TurnReward):
    """The place of an episode's length in its group, paid on the last turn.

    ``lam = 0.5 - (len - min) / (max - min)`` over the group; a success gets lam, a failure min(0,
    lam). Beside a reward for success, the shortest success gains 0.5 and the longest episode loses
    0.5.

    The paper warms the weight up from 0, because a penalty on length slows learning at first. Here
    the weight is the same from the first step of a stage on: keep it small beside the value of
    success, or train a first stage without this reward (each ``rl`` stage of a recipe may have a
    `label` and `rewards` of its own).

    Edge cases: equal lengths, and groups of one, give 0; an episode in which nothing was said does
    not count.

    Paper: Kimi k1.5 (arXiv 2501.12599). Source: inspired by it and written from general knowledge.
    """

    compares: ClassVar[bool] = True
    name: Literal["length_penalty"] = "length_penalty"
    unit: Literal["tokens", "turns"] = Field(
        "tokens", description="unit of the length: tokens that the player wrote, or turns"
    )

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        """Pay every episode for the place of its length in the group, on the last turn."""
        lengths = [self._length(episode) for episode in group if self._length(episode)]
        low, high = min(lengths, default=0), max(lengths, default=0)

        def value(episode: Episode) -> float:
            if low == high:
                return 0.0
            place = 0.5 - (self._length(episode) - low) / (high - low)
            return place if episode.success else min(0.0, place)

        return on_last_turn([value(episode) for episode in group], group)

    def _length(self, episode: Episode) -> int:
        return episode.response_tokens if self.unit == "tokens" else len(episode.turns)
