"""TurnReward: what each turn was worth. A group of finished episodes in, one number per turn of each episode out::

    class Curiosity(TurnReward):
        name: Literal["curiosity"] = "curiosity"

        async def __call__(self, group, scorer=None):
            return [[float(turn.observation not in seen(e, t)) for t, turn in enumerate(e.turns)] for e in group]

Rewards stay named and unweighted until credit is assigned; the recipe's weight is applied there and both are logged.
Penalties are negative numbers of unit size, so that a weight is always a positive price.
"""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field

from ..agents.engines.base import Engine
from ..agents.episode import Group
from ..plugins import Plugin, Slot


class TurnReward(Plugin):
    """Base of the slot ``rewards``.

    ``requires`` may name: extras of the environment ('progress', 'expert', 'admissible_actions'), 'scorer' (an engine
    that scores given tokens with the current policy), 'answer' (gold answers).
    """

    weight: float = Field(1.0, description="price of one unit of this reward in the return")

    @abstractmethod
    async def __call__(self, group: Group, scorer: Engine | None = None) -> list[list[float]]:
        """One number per turn, per episode of the group, in order; lengths match the episodes' turns."""


REWARDS: Slot[TurnReward] = Slot("turnrl.rewards", TurnReward)
