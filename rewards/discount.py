"""Reward ``discount``: the episode's result on every turn, less on early turns of long episodes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..agents.agent import LanguageAgent
from ..agents.episode import Group
from ..foundation.plugins import Plugged
from ._wrapper import Wrapper
from .base import REWARDS, TurnReward, inner_sums


class Discount(Wrapper):
    """A geometric share of another reward on each turn.

    ``r_t = gamma^(T-t) * R``, with R what the reward `of` pays over the whole episode and T the
    last turn.

    Every turn already holds the result that followed it: meant for credit that takes turns one by
    one (``stepwise`` with gamma 0). Summed into a return, R counts once per turn, and longer
    successes are worth more.

    Edge cases: R = 0 gives zeros; a truncated episode counts with the R it had; R that could not be
    measured makes every turn NaN.

    Paper: EAPO (arXiv 2511.07327). Source: a description of the paper; the default of gamma is
    ours.
    """

    name: Literal["discount"] = "discount"
    of: Plugged[TurnReward] = Field(
        default_factory=lambda: REWARDS.build({"name": "outcome"}),
        description="the reward that is spread; its weight is ignored",
    )
    gamma: float = Field(
        0.995, gt=0, le=1, description="factor on the result for each turn before the last"
    )

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        """Pay every turn the episode's result, less for each turn that is still to come."""
        totals = await inner_sums(self.of, group, scorer)
        return [
            [self.gamma ** (len(episode.turns) - 1 - t) * total for t in range(len(episode.turns))]
            for episode, total in zip(group, totals, strict=True)
        ]
