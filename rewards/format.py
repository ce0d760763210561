"""Reward ``format``: the price of an answer that the parser could not read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..agents.agent import LanguageAgent
from ..agents.episode import Group
from .base import TurnReward


class Format(TurnReward):
    """A penalty on turns from which no action could be parsed.

    ``r_t = -1`` if the turn was unparsable, else 0; the weight (default 0.1) is the price.

    Edge cases: an action that was parsed and then refused is not charged here but by
    ``invalid_action``, so that no turn pays twice.

    Source: the code of langfengQ/verl-agent (the coefficient).
    """

    name: Literal["format"] = "format"
    weight: float = Field(0.1, description="price of one unparsable turn")

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        """Pay -1 for every turn from which no action could be parsed, and 0 for the others."""
        return [
            [-1.0 if turn.invalid_reason == "unparsable" else 0.0 for turn in episode.turns]
            for episode in group
        ]
