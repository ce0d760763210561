"""Credit ``gigpo``: episodes against their group, and turns against other turns from the very same
state.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..batch import TokenBatch
from ..reward_table import RewardTable
from ._stats import ZERO, centre_E, returns_to_go, zscore_E
from .base import Advantages, Credit, Peers


class Gigpo(Credit):
    """Group-in-group advantages [E, T].

    ``A_{i,t} = A^E_i + omega * A^S_{i,t}``. ``A^E`` is the episode's undiscounted return against
    its group. ``A^S`` is the discounted return-to-go of the turn against those of all turns of the
    group, repeats within an episode included, before which the world had said exactly the same (the
    anchor state; our own sentences about a bad response are not the world's). Both subtract the
    mean (`norm` ``mean``) or give z-scores (``mean_std``).

    Edge cases: a state that was met once, equal returns, and groups of one give 0 at their level;
    worlds that print a step counter never meet a state twice. `step_weighted` counts an episode
    once per turn in the mean of ``A^E``, as the released default does: long failures then dominate.

    Paper: GiGPO (arXiv 2505.10978). Source: the code of langfengQ/verl-agent.
    """

    compares: ClassVar[Peers] = "group"
    name: Literal["gigpo"] = "gigpo"
    gamma: float = Field(0.95, ge=0, le=1, description="discount per turn of the return-to-go")
    omega: float = Field(
        1.0, ge=0, description="weight of the advantage among turns in the same state"
    )
    norm: Literal["mean", "mean_std"] = Field(
        "mean", description="what normalises: the mean alone, or mean and standard deviation"
    )
    step_weighted: bool = Field(False, description="weigh episodes by their turns, for parity")
    eps: float = Field(1e-6, ge=0, description="small number added to each standard deviation")

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        """Compute advantages of episodes plus those of turns from equal states [E, T], float64."""
        if batch.state_ET is None:
            raise ValueError("gigpo needs state_ET")
        mask_ET = batch.mask_ET
        group_ET = batch.group_E[:, None].expand_as(mask_ET)
        return_ET = rewards.total_E[:, None].expand_as(group_ET)
        episode_ET = torch.zeros_like(rewards.total_ET)
        if self.step_weighted:
            episode_ET[mask_ET] = self._normal(return_ET[mask_ET], group_ET[mask_ET])
        else:
            episode_ET = self._normal(rewards.total_E, batch.group_E)[:, None].expand_as(group_ET)
        future_ET = returns_to_go(rewards.total_ET, self.gamma)
        anchor_ET = (
            group_ET * (int(batch.state_ET.max()) + 2 if batch.state_ET.numel() else 1)
            + batch.state_ET
        )
        turn_ET = torch.zeros_like(future_ET)
        turn_ET[mask_ET] = self._normal(future_ET[mask_ET], anchor_ET[mask_ET])
        advantage_ET = episode_ET + self.omega * turn_ET
        known_ET = mask_ET & (advantage_ET.abs() > ZERO)
        return Advantages(torch.where(known_ET, advantage_ET, 0.0))

    def _normal(self, values_N: Tensor, key_N: Tensor) -> Tensor:
        return (
            centre_E(values_N, key_N)
            if self.norm == "mean"
            else zscore_E(values_N, key_N, self.eps)
        )
