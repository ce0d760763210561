"""Credit ``rloo``: the episode's return against the mean of the others in its group."""

from __future__ import annotations

from typing import ClassVar, Literal

from ..batch import TokenBatch
from ..reward_table import RewardTable
from ._stats import centre_E, group_stats
from .base import Advantages, Credit, Peers


class Rloo(Credit):
    """REINFORCE with a leave-one-out baseline, the same on every turn of the episode [E, T].

    ``A_i = R_i - mean_{j != i} R_j = G / (G - 1) * (R_i - mean_g)``, with R_i the weighted sum of
    all rewards of episode i and G the size of its group. The baseline does not depend on the
    episode's own actions, so the gradient is unbiased, if the loss adds tokens up without dividing
    by how many were sampled (``seq_mean_token_sum``, ``seq_mean_token_sum_norm``;
    docs/estimators.md).

    Edge cases: equal returns and groups of one give exactly 0; groups may differ in size.

    Paper: "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human
    Feedback" (arXiv 2402.14740). Source: the code of volcengine/verl.
    """

    compares: ClassVar[Peers] = "group"
    name: Literal["rloo"] = "rloo"

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        """Compute returns minus the mean of the others in the group [E, T], float64."""
        return_E = rewards.total_E
        count_E = group_stats(return_E, batch.group_E)[2]
        return Advantages.of_episodes(
            centre_E(return_E, batch.group_E) * count_E / (count_E - 1).clamp(min=1), batch
        )
