"""Credit ``lite_ppo``: the return against its group, in standard deviations of the batch."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from ..batch import TokenBatch
from ..reward_table import RewardTable
from ._stats import ZERO, centre_E
from .base import Advantages, Credit, Peers


class LitePpo(Credit):
    """Group mean, batch deviation, the same on every turn of the episode [E, T].

    ``A_i = (R_i - mean_g) / (std_batch + eps)``, the unbiased standard deviation being that of the
    raw returns of all episodes of the batch: groups that hardly differ are not blown up. Meant for
    a token-mean loss with a plain clip.

    Edge cases: groups without variance, groups of one, and a batch without variance give exactly 0.

    Paper: "Tricks or Traps? A Deep Dive into RL for LLM Reasoning" (arXiv 2508.08221). Source:
    inspired by it and written from general knowledge.
    """

    compares: ClassVar[Peers] = "group"
    name: Literal["lite_ppo"] = "lite_ppo"
    eps: float = Field(
        1e-6, ge=0, description="small number added to the batch's standard deviation"
    )

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        """Compute group-centred returns over the batch's deviation [E, T], float64."""
        return_E = rewards.total_E
        std = float(return_E.std()) if len(return_E) > 1 else 0.0
        if std <= ZERO:
            return Advantages.of_episodes(torch.zeros_like(return_E), batch)
        return Advantages.of_episodes(centre_E(return_E, batch.group_E) / (std + self.eps), batch)
