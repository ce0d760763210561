"""Reward ``clip``: a penalty where another reward stays below a bound, and nothing above it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..agents.agent import LanguageAgent
from ..agents.episode import Group
from ..foundation.plugins import Plugged
from ._wrapper import Wrapper
from .base import TurnReward, ask


class Clip(Wrapper):
    """A penalty of what another reward falls short of a bound, turn by turn.

    ``r_t = min(q_t - eta, 0)``, with q_t what the reward `of` pays for the turn.

    No turn earns anything, so good turns cannot be repeated for gain; the weight stands next to a
    reward for success.

    Edge cases: q may lie outside [0, 1]; NaN stays NaN.

    Source: general knowledge; the values of eta and of the weight are ours.
    """

    name: Literal["clip"] = "clip"
    weight: float = Field(0.02, description="price of one unit of this reward in the return")
    of: Plugged[TurnReward] = Field(
        description="the reward per turn that is clipped; its weight is ignored"
    )
    eta: float = Field(0.6, description="what a turn must be worth to cost nothing")

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        """Pay every turn what another reward falls short of the bound on it, as a penalty."""
        rows = await ask(self.of, group, scorer)
        # Not min(): with NaN its answer depends on the order of its arguments.
        return [[0.0 if value >= self.eta else value - self.eta for value in row] for row in rows]
