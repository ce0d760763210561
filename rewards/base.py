"""TurnReward: what each turn was worth. A group of finished episodes in, one number per turn of each episode out::

    class Moved(TurnReward):
        name: Literal["moved"] = "moved"

        async def __call__(self, group, scorer=None):
            return [
                [float(turn.answered and turn.observation != seen) for turn, seen in zip(e.turns, e.states())]
                for e in group
            ]

Rewards stay named and unweighted until credit is assigned; the recipe's weight is applied there and both are logged.
Penalties are negative numbers of unit size, so that a weight is always a positive price. A number that could not be
measured (a judge did not answer) is NaN: the trainer leaves that episode out and counts it, it is never worth 0.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from ..agents.agent import LanguageAgent
from ..agents.episode import Group
from ..plugins import Plugin, Slot


class TurnReward(Plugin):
    """Base of the slot ``rewards``.

    ``requires`` may name: extras of the environment ('progress', 'admissible_actions'; with 'expert' every episode also
    remembers the expert's plan, as it stood at the start), and 'scorer' (the agent that played, whose engine scores
    given tokens with the policy that played and still has the caches of these episodes).
    """

    compares: ClassVar[bool] = False
    """What it pays an episode depends on the others of its group alone: a group of one always gets the same."""
    weight: float = Field(1.0, description="price of one unit of this reward in the return")

    @abstractmethod
    async def __call__(self, group: Group, scorer: LanguageAgent | None = None) -> list[list[float]]:
        """One number per turn, per episode of the group, in order; lengths match the episodes' turns."""


def on_last_turn(values: Sequence[float], group: Group) -> list[list[float]]:
    """One number per episode, paid on its last turn, 0 on the others."""
    return [
        [0.0] * (len(episode.turns) - 1) + [value] * bool(episode.turns)
        for value, episode in zip(values, group, strict=True)
    ]


async def inner_sums(reward: TurnReward, group: Group, scorer: LanguageAgent | None) -> list[float]:
    """What another reward pays over each episode, unweighted."""
    return [sum(row) for row in await reward(group, scorer)]


REWARDS: Slot[TurnReward] = Slot("turnrl.rewards", TurnReward)
