"""Reward ``winrate``: how many of the rest of its group does an episode beat?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import ClassVar, Literal, TypeVar

from pydantic import Field

from ..agents.agent import LanguageAgent
from ..agents.episode import Group
from ..foundation.plugins import Plugged
from ._wrapper import TIE, Wrapper
from .base import REWARDS, TurnReward, inner_sums, on_last_turn

T = TypeVar("T")


class Winrate(Wrapper):
    """The share of the other episodes of the group that an episode beats, paid on the last turn.

    ``R_i = mean_{j != i} P(y_i > y_j)``, with P 1 if the reward `by` pays more over episode i than
    over j, 0 if less, and 0.5 for a tie. Only the order counts, so the result does not depend on
    the unit of `by`; the mean of a group is always 0.5.

    Edge cases: a group of one gets 0.5; sums within 1e-9 are ties; an episode whose `by` could not
    be measured is NaN and one without turns is unpaid, and neither is compared with the others.

    Source: inspired by SPO, self-play preference optimisation (arXiv 2401.04056), and written from
    general knowledge.
    """

    compares: ClassVar[bool] = True
    name: Literal["winrate"] = "winrate"
    by: Plugged[TurnReward] = Field(
        default_factory=lambda: REWARDS.build({"name": "outcome"}),
        description="the reward that decides; its weight is ignored",
    )

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        """Pay every episode the share of the others that it beats, on the last turn."""
        values = await inner_sums(self.by, group, scorer)
        compared = [
            e for e, episode in enumerate(group) if episode.turns and not math.isnan(values[e])
        ]
        rates = dict(zip(compared, win_rates([values[e] for e in compared], _above), strict=True))
        return on_last_turn([rates.get(e, math.nan) for e in range(len(group))], group)


def win_rates(items: Sequence[T], beats: Callable[[T, T], float]) -> list[float]:
    """Compute the mean probability that each item beats another one; 0.5 for an item alone.

    Args:
        beats: the probability that its first argument is better than its second; that of the
            reverse is the rest of 1.
    """
    wins = [0.0] * len(items)
    for i, j in combinations(range(len(items)), 2):
        won = beats(items[i], items[j])
        wins[i] += won
        wins[j] += 1.0 - won
    return [won / (len(items) - 1) if len(items) > 1 else 0.5 for won in wins]


def _above(left: float, right: float) -> float:
    return 1.0 if left > right + TIE else 0.0 if left < right - TIE else 0.5
