"""Credit: named turn rewards in, advantages out. The smallest complete estimator::

    class Mine(Credit):                                                   # training/credit/mine.py
        name: Literal["mine"] = "mine"

        def __call__(self, rewards, batch):
            return Advantages.of_episodes(rewards.total_E - rewards.total_E.mean(), batch)

What holds for every estimator: statistics weigh episodes, not turns; a group without variance, and
a group of one, gives exactly zero; observation tokens have advantage zero; the limits of the task
end an episode like the world does, so that stalling until then is never better than it was; the
current policy is never seen.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...agents.episode import StopReason
from ...foundation.plugins import Plugin, Slot
from ..batch import TokenBatch
from ..reward_table import RewardTable

Peers = Literal["nothing", "batch", "group"]


@dataclass(frozen=True, slots=True)
class Advantages:
    """How much better than expected each turn, or each token, was."""

    values: Tensor
    """[E, T] or [B, L], by `level`; 0 where nothing was sampled."""
    level: Literal["turn", "token"] = "turn"
    critic_targets_BL: Tensor | None = None
    """What a critic learns to predict, NaN where there is no target; None without a critic."""

    @classmethod
    def of_episodes(cls, values_E: Tensor, batch: TokenBatch) -> Advantages:
        """Put one number per episode [E] on each of its turns."""
        return cls(torch.where(batch.mask_ET, values_E[:, None], 0.0))


class Credit(Plugin):
    """Base of the slot ``training.credit``. ``requires`` may name VALUES of `Need`."""

    compares: ClassVar[Peers] = "nothing"
    """What `peers` answers, where it depends on no field."""

    def peers(self) -> Peers:
        """Name the other episodes without which an advantage, or a part of it, is 0."""
        return self.compares

    def bootstraps(self) -> frozenset[StopReason]:
        """Name the stop reasons after which a critic's value stands for the missing turns.

        None by default.
        """
        return frozenset()

    @abstractmethod
    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        """Compute the advantages of the episodes in `rewards` and `batch` alike.

        They are float64, without gradient.
        """


CREDITS: Slot[Credit] = Slot("turnrl.training.credit", Credit, "Credit")
