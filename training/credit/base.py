"""Credit: named turn rewards in, advantages out. The smallest complete estimator::

    class Mine(Credit):                                                   # training/credit/mine.py
        name: Literal["mine"] = "mine"

        def __call__(self, rewards_KET, batch):
            return_E = batch.total_ET(rewards_KET).sum(1)
            return (return_E - return_E.mean())[:, None].expand(-1, batch.max_turns)

What holds for every estimator: statistics weigh episodes, not turns; a group without variance, and
a group of one, gives exactly zero; observation tokens have advantage zero; the limits of the task
end an episode like the world does, so that stalling until then is never better than it was; the
current policy is never seen.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from torch import Tensor

from ...agents.episode import StopReason
from ...foundation.plugins import Plugin, Slot
from ..batch import TokenBatch

Peers = Literal["nothing", "batch", "group"]


class Credit(Plugin):
    """Base of the slot ``training.credit``. ``requires`` may name VALUES of `Need`."""

    level: ClassVar[Literal["turn", "token"]] = "turn"
    """What `__call__` returns: advantages per turn [E, T] or per token [B, L]."""
    compares: ClassVar[Peers] = "nothing"
    """What `peers` answers, where it depends on no field."""

    def peers(self) -> Peers:
        """Name the other episodes without which an advantage, or a part of it, is 0."""
        return self.compares

    def bootstraps(self) -> frozenset[StopReason]:
        """Reasons to stop after which a critic's value stands for the turns that never came
        ('values'); none.
        """
        return frozenset()

    @abstractmethod
    def __call__(self, rewards_KET: Tensor, batch: TokenBatch) -> Tensor:
        """Advantages, float64, without gradient: [E, T], or [B, L] if `level` is 'token'; 0 where
        nothing was sampled.

        Args:
            rewards_KET: float64, unweighted; ``batch.reward_names`` and ``batch.reward_weights_K``
                describe K.
        """


CREDITS: Slot[Credit] = Slot("turnrl.training.credit", Credit)
