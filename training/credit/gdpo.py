"""Credit ``gdpo``: every reward in standard deviations of its own group, then added up."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from ..batch import TokenBatch
from ..reward_table import RewardTable
from ._stats import ZERO, zscore_E
from .base import Advantages, Credit, Peers


class Gdpo(Credit):
    """Group z-score of each named reward by itself, weighted, added and normalised over the batch
    [E, T].

    ``A_k = (r_k - mean_g r_k) / (std_g r_k + eps)`` with r_k the episode's sum of reward k; ``A =
    (S - mean S) / (std S + eps)`` with ``S = sum_k w_k A_k`` over the episodes of the batch.
    Rewards of different size then count as much as their weights say, and combinations that have
    the same sum stay apart.

    Edge cases: a reward that is constant in a group contributes 0 there; a batch without variance
    is 0; with a single reward the last normalisation is left out, which is ``grpo``.

    Paper: GDPO (arXiv 2601.05242). Source: the code of NVlabs/GDPO and huggingface/trl.
    """

    compares: ClassVar[Peers] = "group"
    name: Literal["gdpo"] = "gdpo"
    eps: float = Field(1e-4, ge=0, description="small number added to each standard deviation")

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        """Compute the normalised sum of each reward's group z-scores [E, T], float64."""
        sums_KE = rewards.sums_KE
        total_E = sums_KE.new_zeros(batch.episodes)
        for weight, sum_E in zip(rewards.weights_K.tolist(), sums_KE, strict=True):
            total_E = total_E + weight * zscore_E(sum_E, batch.group_E, self.eps)
        if len(sums_KE) > 1:
            total_E = zscore_E(total_E, torch.zeros_like(batch.group_E), self.eps)
        return Advantages.of_episodes(torch.where(total_E.abs() > ZERO, total_E, 0.0), batch)
