"""Reward ``delta``: a process reward whose sum does not depend on how long the episode is."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field

from ..agents.agent import LanguageAgent
from ..agents.episode import Group
from ..foundation.plugins import Plugged
from ._wrapper import Wrapper
from .base import TurnReward, ask


class Delta(Wrapper):
    """The difference between what another reward pays for a turn and for the next one.

    ``r_t = q_t - q_{t+1}`` and ``r_T = q_T``, with q_t what the reward `of` pays for the turn.

    What follows turn t, itself included, sums to q_t: more turns of the same worth add nothing.
    `of` may be ``clip``.

    Edge cases: a single turn keeps its q; q may lie outside [0, 1]; NaN stays NaN, on the turn
    before it as well.

    Source: general knowledge; the value of the weight is ours.
    """

    name: Literal["delta"] = "delta"
    weight: float = Field(0.02, description="price of one unit of this reward in the return")
    of: Plugged[TurnReward] = Field(
        description="the reward per turn that is differenced; its weight is ignored"
    )

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        """Pay every turn what another reward pays for it, less what that pays for the next turn."""
        rows = await ask(self.of, group, scorer)
        return [[value - after for value, after in pairwise([*row, 0.0])] for row in rows]
