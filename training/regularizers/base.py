"""Regularizer: a term beside the policy loss, or a named reward from log-probabilities. The hook is `token_loss`::

class Mine(Regularizer):                                              # training/regularizers/mine.py
    name: Literal["mine"] = "mine"

    def token_loss(self, logprobs_BL, batch, entropy_BL):
        return LossOutput(-entropy_BL)
"""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field
from torch import Tensor

from ...foundation.plugins import Plugin, Slot
from ..batch import TokenBatch
from ..losses.base import LossOutput


class Regularizer(Plugin):
    """Base of the slot ``training.regularizers``. ``requires`` may name REF_LOGPROBS and ENTROPY of
    `Need`.
    """

    coefficient: float = Field(1e-3, ge=0, description="weight of the term")

    @abstractmethod
    def token_loss(
        self, logprobs_BL: Tensor, batch: TokenBatch, entropy_BL: Tensor | None
    ) -> LossOutput:
        """The unweighted term per token; the trainer multiplies by `coefficient` and aggregates
        like the loss.
        """

    def reward_BL(self, batch: TokenBatch) -> Tensor | None:
        """Unweighted reward per action token, [B, L] without gradient, if the term acts on rewards;
        else None.
        """
        return None


REGULARIZERS: Slot[Regularizer] = Slot("turnrl.training.regularizers", Regularizer)
