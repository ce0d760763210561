"""Reward ``environment``: the world's own reward, turn by turn."""

from __future__ import annotations

from typing import Literal

from ..agents.agent import LanguageAgent
from ..agents.episode import Group
from .base import TurnReward


class Environment(TurnReward):
    """The reward that ``step`` returned for each turn, in the world's unit.

    ``r_t = env_reward_t``. Worlds report rewards, not running scores, so the sum over turns is the
    final score.

    Edge cases: a lost episode keeps what it earned before it was lost.

    Source: standard in the field.
    """

    name: Literal["environment"] = "environment"

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        """Pay every turn the reward that the world returned for it."""
        return [[turn.env_reward for turn in episode.turns] for episode in group]
