"""Credit ``turn_return``: what came after this turn, against what came after the same turn in the
rest of the group.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..batch import TokenBatch
from ..reward_table import RewardTable
from ._stats import ZERO, group_stats, group_sum, returns_to_go
from .base import Advantages, Credit, Peers


class TurnReturn(Credit):
    """Discounted return-to-go per turn with a leave-one-out group baseline [E, T].

    ``G_{i,t} = r_{i,t} + gamma * G_{i,t+1}`` and ``A_{i,t} = G_{i,t} - b_{i,t}``, where ``b`` is
    the mean over the other episodes j of the group of

    - ``turn``: G_{j,t} of those that were still playing at turn t; once none is, of those that
      played longest, at their last turn. The carried value keeps a group whose episodes all won at
      exactly 0, whatever their lengths.
    - ``episode``: G_{j,0}, their whole return.
    - ``none``: 0.

    The return is formed before anything is subtracted, and b depends on other episodes only, so the
    gradient is unbiased even where the policy decides how many turns there are, if the loss adds
    tokens up without dividing by how many were sampled (``seq_mean_token_sum``,
    ``seq_mean_token_sum_norm``; docs/estimators.md). Centring the reward of each turn index instead
    hides a bonus of minus its mean for every additional turn. `scale` divides by an unbiased
    standard deviation of G_{.,0}, one value per episode: within the group, or within groups and
    pooled over the batch.

    Edge cases: groups of one give 0, unless there is no baseline and no scale; with a scale, no
    variance gives exactly 0; deviations up to 1e-8 are 0; a truncated episode counts with the
    return it had.

    Papers: "Policy Gradient Methods for Reinforcement Learning with Function Approximation" (Sutton
    et al., 1999); leave-one-out, arXiv 2402.14740. Source: standard in the field; the per-turn
    baseline and its carry are ours.
    """

    name: Literal["turn_return"] = "turn_return"
    gamma: float = Field(1.0, ge=0, le=1, description="discount per turn")
    baseline: Literal["turn", "episode", "none"] = Field(
        "turn", description="what is subtracted from the return"
    )
    scale: Literal["none", "group", "batch"] = Field(
        "none", description="returns whose standard deviation divides the result, or none"
    )
    eps: float = Field(1e-6, ge=0, description="small number added to the standard deviation")

    def peers(self) -> Peers:
        """Name the other episodes that it compares with."""
        return "nothing" if self.baseline == self.scale == "none" else "group"

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        """Compute turns' returns-to-go minus their group baseline [E, T], float64."""
        return_ET = returns_to_go(rewards.total_ET, self.gamma)
        advantage_ET = return_ET - self._baseline_ET(return_ET, batch)
        if self.scale != "none" and batch.max_turns:
            std_E = self._std_E(return_ET[:, 0], batch.group_E)[:, None]
            advantage_ET = torch.where(
                std_E > ZERO, advantage_ET / (std_E + self.eps).clamp(min=ZERO), 0.0
            )
        known_ET = batch.mask_ET & (advantage_ET.abs() > ZERO)
        return Advantages(torch.where(known_ET, advantage_ET, 0.0))

    def _baseline_ET(self, return_ET: Tensor, batch: TokenBatch) -> Tensor:
        if self.baseline == "none" or not batch.max_turns:
            return torch.zeros_like(return_ET)
        counted_ET, alive_ET = return_ET, batch.mask_ET.double()
        if self.baseline == "episode":
            counted_ET, alive_ET = return_ET[:, :1].expand_as(return_ET), torch.ones_like(alive_ET)
        index_E, count_G = batch.group_E.unique(return_inverse=True, return_counts=True)[1:]
        others_ET = group_sum(alive_ET, index_E, len(count_G))[index_E] - alive_ET
        total_ET = group_sum(counted_ET, index_E, len(count_G))[index_E] - counted_ET
        last_E = ((others_ET > 0).sum(1) - 1).clamp(min=0)
        turn_ET = torch.minimum(batch.turn_T, last_E[:, None])
        baseline_ET = (total_ET / others_ET.clamp(min=1)).gather(1, turn_ET)
        return torch.where((count_G[index_E] > 1)[:, None], baseline_ET, return_ET)

    def _std_E(self, return_E: Tensor, group_E: Tensor) -> Tensor:
        mean_E, std_E, _ = group_stats(return_E, group_E)
        if self.scale == "group":
            return std_E
        freedom = max(len(return_E) - len(group_E.unique()), 1)
        return (((return_E - mean_E) ** 2).sum() / freedom).sqrt().expand_as(return_E)
