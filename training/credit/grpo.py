"""Credit ``grpo``: the episode's return in standard deviations of its group."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ..batch import TokenBatch
from ..reward_table import RewardTable
from ._stats import zscore_E
from .base import Advantages, Credit, Peers


class Grpo(Credit):
    """Group z-score of the return, the same on every turn of the episode [E, T].

    ``A_i = (R_i - mean_g) / (std_g + eps)``, with R_i the weighted sum of all rewards of episode i,
    and mean and unbiased standard deviation over the episodes of its group, one value per episode
    however long it was.

    Edge cases: a group whose deviation is at most 1e-8, and a group of one, give exactly 0.

    Paper: "DeepSeekMath" (arXiv 2402.03300). Source: the code of volcengine/verl (eps 1e-6) and
    huggingface/trl (eps 1e-4).
    """

    compares: ClassVar[Peers] = "group"
    name: Literal["grpo"] = "grpo"
    eps: float = Field(
        1e-6, ge=0, description="small number added to the group's standard deviation"
    )

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        """Compute group z-scores of the returns [E, T], float64."""
        return Advantages.of_episodes(zscore_E(rewards.total_E, batch.group_E, self.eps), batch)
