"""Modifier: a change of advantages after the estimator, in the order of the recipe::

    class Half(Modifier):  # training/modifiers/half.py
        name: Literal["half"] = "half"

        def __call__(self, advantages_BL, batch):
            return advantages_BL / 2

A modifier returns new advantages and writes into nothing that it is given.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from ...foundation.plugins import Plugin, Slot
from ..batch import TokenBatch


class Modifier(Plugin):
    """Base of the slot ``training.modifiers``."""

    @abstractmethod
    def __call__(self, advantages_BL: Tensor, batch: TokenBatch) -> Tensor:
        """Make new advantages [B, L] of the given ones; 0 stays 0 where nothing was sampled."""


def by_episode(factor_E: Tensor, batch: TokenBatch) -> Tensor:
    """Give every sequence the factor of its episode: [E] -> [B, 1]."""
    return factor_E[batch.episode_B][:, None]


def lengths_E(batch: TokenBatch, unit: str) -> Tensor:
    """Count how long episodes are [E], float64: in the player's 'tokens', or in 'turns'."""
    if unit == "turns":
        return batch.turns_E.double()
    return batch.tokens_E.double()


MODIFIERS: Slot[Modifier] = Slot("turnrl.training.modifiers", Modifier, "Modifiers of advantages")
