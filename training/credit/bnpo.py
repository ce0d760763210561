"""Credit ``bnpo``: REINFORCE with a group baseline, weighted by how common the group's success rate
is.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ...foundation.errors import UserError
from ..batch import TokenBatch
from ..reward_table import RewardTable
from ._stats import ZERO, centre_E, group_stats
from .base import Advantages, Credit, Peers


class Bnpo(Credit):
    """Centred rewards over the density of a Beta distribution fitted to the batch's group means [E,
    T].

    ``A_i = (R_i - p) * min(1 / BetaPDF(p; alpha, beta), cap)`` with rewards mapped affinely to [0,
    1] and p the mean of the group. With m and v the mean and unbiased variance of p over the groups
    of the batch, ``s = m (1 - m) / v - 1``, ``alpha = max(1, 1 + s m / 3)`` and ``beta = max(1, 1 +
    s (1 - m) / 3)``. alpha = beta = 1 is REINFORCE with a baseline, 3/2 is proportional to
    ``grpo``. Each named reward is treated by itself; the results are added with their weights.

    Edge cases: a single group, and groups of equal mean, have alpha = beta = 1; groups without
    variance give exactly 0.

    Raises:
        UserError: an episode's sum of a reward lies outside `low` .. `high`.

    Paper: "BNPO: Beta Normalization Policy Optimization" (arXiv 2506.02864). Source: the code of
    changyi7231/BNPO; the guard for equal means is ours.
    """

    compares: ClassVar[Peers] = "group"
    name: Literal["bnpo"] = "bnpo"
    low: float = Field(0.0, description="smallest sum of a reward over an episode")
    high: float = Field(1.0, description="largest sum of a reward over an episode")
    cap: float = Field(1e6, gt=0, description="largest weight of a group")

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        """Compute Beta-weighted advantages [E, T], float64.

        Raises UserError for a reward outside of `low` .. `high`.
        """
        sums_KE = rewards.sums_KE
        advantage_E = sums_KE.new_zeros(batch.episodes)
        for name, weight, sum_E in zip(
            rewards.names, rewards.weights_K.tolist(), sums_KE, strict=True
        ):
            if bool(((sum_E < self.low - ZERO) | (sum_E > self.high + ZERO)).any()):
                raise UserError(
                    f"credit 'bnpo': '{name}' leaves {self.low} .. {self.high}: set low and high to"
                    " its range"
                )
            unit_E = ((sum_E - self.low) / (self.high - self.low)).clamp(0, 1)
            advantage_E = advantage_E + weight * centre_E(unit_E, batch.group_E) * self._weight_E(
                unit_E, batch.group_E
            )
        return Advantages.of_episodes(advantage_E, batch)

    def _weight_E(self, unit_E: Tensor, group_E: Tensor) -> Tensor:
        mean_E = group_stats(unit_E, group_E)[0]
        first_G = torch.stack([mean_E[group_E == g][0] for g in group_E.unique()])
        m, v = first_G.mean(), first_G.var() if len(first_G) > 1 else mean_E.new_zeros(())
        if float(v) <= ZERO:
            return torch.ones_like(unit_E)
        s = m * (1 - m) / v - 1
        alpha, beta = (1 + s * m / 3).clamp(min=1), (1 + s * (1 - m) / 3).clamp(min=1)
        # At 0 and 1 the density may be 0 or infinite; the centred reward is 0 there.
        inside_E = mean_E.clamp(1e-9, 1 - 1e-9)
        density = torch.distributions.Beta(alpha, beta)
        inverse_E: Tensor = (-density.log_prob(inside_E)).exp()
        return inverse_E.clamp(max=self.cap)
