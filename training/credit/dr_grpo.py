"""Credit ``dr_grpo``: the episode's return against the mean of its group, not normalised."""

from __future__ import annotations

from typing import ClassVar, Literal

from ..batch import TokenBatch
from ..reward_table import RewardTable
from ._stats import centre_E
from .base import Advantages, Credit, Peers


class DrGrpo(Credit):
    """Group-centred return without division by the deviation, the same on every turn of the episode
    [E, T].

    ``A_i = R_i - mean_g``, with R_i the weighted sum of all rewards of episode i. Meant for losses
    aggregated with ``seq_mean_token_sum_norm``, whose constant length is the other half of the
    method.

    Edge cases: equal returns and groups of one give exactly 0. In a group of G it is ``(G - 1) /
    G`` of ``rloo``.

    Paper: "Understanding R1-Zero-Like Training: A Critical Perspective" (arXiv 2503.20783).
    Source: the code of volcengine/verl and huggingface/trl.
    """

    compares: ClassVar[Peers] = "group"
    name: Literal["dr_grpo"] = "dr_grpo"

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        """Compute returns minus the means of their groups [E, T], float64."""
        return Advantages.of_episodes(centre_E(rewards.total_E, batch.group_E), batch)
