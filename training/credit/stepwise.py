"""Credit ``stepwise``: every turn is a sample of its own, and every episode weighs the same."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from ..batch import TokenBatch
from ..reward_table import RewardTable
from ._stats import ZERO, group_stats, group_sum, returns_to_go
from .base import Advantages, Credit, Peers


class Stepwise(Credit):
    """The return-to-go of a turn against the mean of all turns of the group, each episode counting
    once [E, T].

    ``G_{i,t} = r_{i,t} + gamma * G_{i,t+1}``; the baseline is the mean over the episodes of the
    group of the mean over their turns, so that long failures do not weigh more than short
    successes. With `scale` the result is divided by the standard deviation of G around the
    baseline, with the same weights (unbiased in the number of episodes).

    The baseline contains the episode's own return and does not depend on the turn: the gradient is
    biased towards what keeps an episode going where the return-to-go shrinks with time;
    ``turn_return`` is the unbiased relative.

    Edge cases: groups of one, and groups whose returns-to-go are all equal, give exactly 0.

    Source: inspired by the step-wise modes of public trainers, which weigh turns (4 wins of 10
    turns and 4 losses of 50, worth 10 and 0, then have the mean 1.67 instead of 5).
    """

    compares: ClassVar[Peers] = "group"
    name: Literal["stepwise"] = "stepwise"
    gamma: float = Field(1.0, ge=0, le=1, description="discount per turn")
    scale: bool = Field(True, description="divide advantages by the group's standard deviation")
    eps: float = Field(1e-6, ge=0, description="small number added to the standard deviation")

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        """Compute turns' returns-to-go minus the mean over their group [E, T], float64."""
        return_ET = returns_to_go(rewards.total_ET, self.gamma)
        mask_ET = batch.mask_ET
        turns_E = batch.turns_E.clamp(min=1)
        mean_E, _, count_E = group_stats((return_ET * mask_ET).sum(1) / turns_E, batch.group_E)
        centred_ET = torch.where(mask_ET, return_ET - mean_E[:, None], 0.0)
        index_E, count_G = batch.group_E.unique(return_inverse=True, return_counts=True)[1:]
        squares_G = group_sum((centred_ET**2).sum(1) / turns_E, index_E, len(count_G))
        std_E = (squares_G / (count_G - 1).clamp(min=1)).sqrt()[index_E]
        known_ET = ((std_E > ZERO) & (count_E > 1))[:, None] & (centred_ET.abs() > ZERO)
        scale_E = std_E + self.eps if self.scale else torch.ones_like(std_E)
        scaled_ET = centred_ET / scale_E[:, None].where(known_ET, 1.0)
        return Advantages(torch.where(known_ET, scaled_ET, 0.0))
