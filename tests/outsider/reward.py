"""A reward in one file."""

from __future__ import annotations

from typing import Literal

from turnrl.agents.agent import LanguageAgent
from turnrl.agents.episode import Group
from turnrl.rewards.base import TurnReward


class Alight(TurnReward):
    """Pay 1 for a turn after which another lamp is lit.

    Source: an example.
    """

    name: Literal["alight"] = "alight"

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        """Return one number per turn, per episode."""
        return [[float("is lit" in turn.observation) for turn in each.turns] for each in group]
