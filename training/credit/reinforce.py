"""Credit ``reinforce``: every turn gets the return of its episode."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..batch import TokenBatch
from ..reward_table import RewardTable
from ._stats import centre_E
from .base import Advantages, Credit, Peers


class Reinforce(Credit):
    """The episode's return, optionally minus the mean return of the batch, on each of its turns [E,
    T].

    ``A_i = R_i`` or ``A_i = R_i - mean_j R_j``, with R_i the weighted sum of all rewards of episode
    i.

    Edge cases: without a baseline nothing is compared, so groups without variance and groups of one
    keep their return; with ``batch_mean`` a batch of equal returns gives exactly 0. The batch mean
    contains the episode's own return, which scales the expected gradient by ``1 - 1/E``; ``rloo``
    leaves it out.

    Paper: "Simple statistical gradient-following algorithms for connectionist reinforcement
    learning" (Williams, 1992). Source: standard in the field.
    """

    name: Literal["reinforce"] = "reinforce"
    baseline: Literal["none", "batch_mean"] = Field(
        "none", description="what is subtracted from the return"
    )

    def peers(self) -> Peers:
        """Name the other episodes that it compares with."""
        return "nothing" if self.baseline == "none" else "batch"

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        """Put each episode's return, less the baseline, on each of its turns [E, T], float64."""
        return_E = rewards.total_E
        if self.baseline == "batch_mean":
            return_E = centre_E(return_E, batch.group_E * 0)
        return Advantages.of_episodes(return_E, batch)
