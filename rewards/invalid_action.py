"""Reward ``invalid_action``: the price of an action that the world refused."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..agents.agent import LanguageAgent
from ..agents.episode import Group, Turn
from .base import TurnReward


class InvalidAction(TurnReward):
    """A penalty on turns whose action was parsed, but refused by the sanitiser or by the world.

    ``r_t = -1`` if the action was refused, else 0; the weight (default 0.1) is the price.

    Edge cases: an unparsable turn is charged by ``format`` alone, so that no turn pays twice.

    Paper: GiGPO (arXiv 2505.10978). Source: the code of langfengQ/verl-agent (the coefficient).
    """

    name: Literal["invalid_action"] = "invalid_action"
    weight: float = Field(0.1, description="price of one refused action")

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        """Pay -1 for every turn whose action was parsed and then refused, and 0 for the others."""
        return [[-1.0 if _refused(turn) else 0.0 for turn in episode.turns] for episode in group]


def _refused(turn: Turn) -> bool:
    return not turn.valid_action and turn.invalid_reason != "unparsable"
