"""Credit ``tag_group``: the episode's return, mixed with how well a turn did among turns of the
same kind.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from ...foundation.errors import UserError
from ..batch import TokenBatch
from ..reward_table import RewardTable
from ._stats import ZERO, zscore_E
from .base import Advantages, Credit, Peers


class TagGroup(Credit):
    """Group z-score of the return, and z-score of the reward of each kind of reasoning [E, T].

    ``A_{i,t} = alpha * A^traj_i + (1 - alpha) * A^tag_{i,t}``, with A^traj the z-score of the
    weighted sum of all rewards but `reward` within the group, and A^tag the z-score of `reward`
    over all turns of the batch with the same tag. What `reward` says of turns without a tag (a
    penalty on the format) is added as it is, times its weight: inside a group of its own, where all
    are equal, it would vanish.

    Edge cases: a tag that was used once, or whose rewards are all equal, gives 0 at its level.

    Raises:
        UserError: the recipe has no reward of that name.

    Paper: RLVMR (arXiv 2507.22844). Source: the paper; what happens to untagged turns is ours.
    """

    name: Literal["tag_group"] = "tag_group"
    alpha: float = Field(
        0.5, ge=0, le=1, description="share of the return's z-score; the rest is that of the tag"
    )
    reward: str = Field("meta_reasoning", description="name of the reward that is compared by tag")
    eps: float = Field(1e-6, ge=0, description="small number added to each standard deviation")

    def peers(self) -> Peers:
        """Name the other episodes that it compares with."""
        return "group" if self.alpha else "nothing"

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        """Add up advantages of episodes and those of turns of equal tags [E, T], float64.

        Raises UserError if no reward has the name `reward`.
        """
        if self.reward not in rewards.names:
            names = ", ".join(rewards.names)
            raise UserError(
                f"credit 'tag_group': no reward is called '{self.reward}'; the recipe has {names}"
            )
        if batch.tag_ET is None:
            raise ValueError("tag_group needs tag_ET")
        k = rewards.names.index(self.reward)
        value_ET = rewards.values_KET[k]
        episode_E = zscore_E(rewards.without(self.reward).total_E, batch.group_E, self.eps)
        tagged_ET = batch.mask_ET & (batch.tag_ET >= 0)
        tag_ET = torch.zeros_like(value_ET)
        tag_ET[tagged_ET] = zscore_E(value_ET[tagged_ET], batch.tag_ET[tagged_ET], self.eps)
        advantage_ET = self.alpha * episode_E[:, None] + (1 - self.alpha) * tag_ET
        untagged_ET = batch.mask_ET & (batch.tag_ET < 0)
        advantage_ET = advantage_ET + torch.where(untagged_ET, rewards.weights_K[k] * value_ET, 0.0)
        known_ET = batch.mask_ET & (advantage_ET.abs() > ZERO)
        return Advantages(torch.where(known_ET, advantage_ET, 0.0))
