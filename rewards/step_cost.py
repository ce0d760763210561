"""Reward ``step_cost``: the price of taking a turn."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..agents.agent import LanguageAgent
from ..agents.episode import Group
from .base import TurnReward


class StepCost(TurnReward):
    """A constant penalty per turn: shorter solutions are worth more.

    ``r_t = -1`` on every turn; the weight (default 0.01) is the price. An episode of N turns pays N
    times the weight.

    Edge cases: where success is rare, giving up early is cheaper than trying; keep the weight below
    the value of success divided by the turn limit.

    Source: standard in the field.
    """

    name: Literal["step_cost"] = "step_cost"
    weight: float = Field(0.01, description="price of one turn")

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        """Pay -1 for every turn."""
        return [[-1.0] * len(episode.turns) for episode in group]
