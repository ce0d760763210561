"""Loss ``reinforce``: the plain policy gradient."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...agents.models.forward import Scores
from ..batch import TokenBatch
from ..objective import LossOutput
from .base import PolicyLoss


class ReinforceLoss(PolicyLoss):
    """Score-function policy gradient per token [B, L], without an importance ratio.

    ``loss = -A * log p``. Right for one update per batch of fresh episodes; the value means
    nothing, only its gradient.

    Edge cases: several updates on one batch are biased, use ``ppo_clip`` there; A = 0 gives
    gradient 0.

    Paper: "Simple statistical gradient-following algorithms for connectionist reinforcement
    learning" (Williams, 1992). Source: standard in the field.
    """

    name: Literal["reinforce"] = "reinforce"

    def token_loss(self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor) -> LossOutput:
        """Compute the loss per token [B, L], in the scores' dtype; 0 outside the mask."""
        logprobs_BL = torch.where(batch.mask_BL, scores.logprobs_BL, 0.0)
        return LossOutput(-advantages_BL.to(logprobs_BL.dtype) * logprobs_BL)
