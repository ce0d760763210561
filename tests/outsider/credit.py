"""An estimator of advantages in one file."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from turnrl.training.batch import TokenBatch, map_groups
from turnrl.training.credit.base import Advantages, Credit, Peers
from turnrl.training.reward_table import RewardTable


class Median(Credit):
    """Distance of an episode's return to the median return of its group.

    Source: an example.
    """

    compares: ClassVar[Peers] = "group"
    name: Literal["median"] = "median"
    scale: float = Field(1.0, gt=0, description="factor on every advantage")

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        """Return one advantage per episode, the same on each of its turns."""
        return_E = rewards.total_E
        advantage_E = torch.zeros_like(return_E)

        def of_group(index: torch.Tensor) -> None:
            advantage_E[index] = self.scale * (return_E[index] - return_E[index].median())

        map_groups(batch.group_E, of_group)
        return Advantages.of_episodes(advantage_E, batch)
