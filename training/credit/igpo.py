"""Credit ``igpo``: process rewards and outcomes normalised apart, then discounted from turn to
turn.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ...foundation.errors import UserError
from ..batch import TokenBatch
from ..reward_table import RewardTable
from ._stats import ZERO, returns_to_go, zscore_E
from .base import Advantages, Credit, Peers


class Igpo(Credit):
    """Discounted sums of normalised turn rewards [E, T].

    ``A_{i,t} = sum_{k >= t} gamma^(k-t) z_{i,k}`` with ``z = (r - mean) / (std + eps)``; r is the
    process reward on every turn but the last, and the weighted sum of all other rewards on the
    last. With `norm` ``separate`` the statistics of process rewards are over all such turns of the
    group, as the paper defines them, and those of outcomes over its episodes; with ``joint`` both
    kinds share one mean and one deviation over turns.

    Edge cases: an episode of one turn has an outcome only; equal rewards of a kind contribute
    exactly 0; groups of one have outcome 0.

    Raises:
        UserError: the recipe has no reward of the name `process`.

    Paper: IGPO (arXiv 2510.14967). Source: the code of GuoqingWang1/IGPO and a description of the
    paper; ``joint`` from general knowledge.
    """

    name: Literal["igpo"] = "igpo"
    process: str = Field("information_gain", description="name of the process reward")
    gamma: float = Field(1.0, ge=0, le=1, description="discount per turn")
    norm: Literal["separate", "joint"] = Field(
        "separate", description="process rewards and outcomes are normalised apart, or together"
    )
    eps: float = Field(1e-6, ge=0, description="small number added to each standard deviation")

    def peers(self) -> Peers:
        """Name the other episodes that it compares with."""
        return "group" if self.norm == "separate" else "nothing"

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        """Compute discounted sums of normalised turn rewards [E, T], float64.

        Raises UserError if no reward has the name `process`.
        """
        if self.process not in rewards.names:
            names = ", ".join(rewards.names)
            raise UserError(
                f"credit 'igpo': no reward is called '{self.process}'; the recipe has {names}"
            )
        k = rewards.names.index(self.process)
        weight, value_ET = rewards.weights_K[k], rewards.values_KET[k]
        outcome_E = rewards.without(self.process).total_E
        last_ET = batch.turn_T[None, :] == batch.turns_E[:, None] - 1
        early_ET = batch.mask_ET & ~last_ET
        process_ET = weight * self._normal(value_ET, early_ET, batch.group_E)
        if self.norm == "joint":
            raw_ET = torch.where(early_ET, weight * value_ET, outcome_E[:, None])
            reward_ET = self._normal(raw_ET, batch.mask_ET, batch.group_E)
        else:
            outcome_ET = zscore_E(outcome_E, batch.group_E, self.eps)[:, None]
            reward_ET = torch.where(last_ET, outcome_ET, process_ET)
        advantage_ET = returns_to_go(torch.where(batch.mask_ET, reward_ET, 0.0), self.gamma)
        known_ET = batch.mask_ET & (advantage_ET.abs() > ZERO)
        return Advantages(torch.where(known_ET, advantage_ET, 0.0))

    def _normal(self, values_ET: Tensor, mask_ET: Tensor, group_E: Tensor) -> Tensor:
        """Compute z-scores of the masked numbers within each group, 0 elsewhere."""
        group_ET = group_E[:, None].expand_as(values_ET)
        out_ET = torch.zeros_like(values_ET)
        if bool(mask_ET.any()):
            out_ET[mask_ET] = zscore_E(values_ET[mask_ET], group_ET[mask_ET], self.eps)
        return out_ET
