"""Regularizer: a term beside the policy loss, or a named reward. The hook is `token_loss`::

    class Mine(Regularizer):  # training/regularizers/mine.py
        name: Literal["mine"] = "mine"

        def token_loss(self, scores, batch, advantages_BL):
            return LossOutput(scores.logprobs_BL ** 2)

It aggregates like the policy loss.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from ...foundation.plugins import Slot
from ..batch import TokenBatch
from ..objective import Objective


class Regularizer(Objective):
    """Base of the slot ``training.regularizers``. ``requires`` may name REF_LOGPROBS and ENTROPY of
    `Need`.
    """

    coefficient: float = Field(1e-3, ge=0, description="weight of the term")

    def reward_BL(self, batch: TokenBatch) -> Tensor | None:
        """Compute an unweighted reward per action token, [B, L] without gradient.

        None if the term acts on the loss.
        """
        return None


REGULARIZERS: Slot[Regularizer] = Slot("turnrl.training.regularizers", Regularizer, "Regularizers")
