"""Loss ``reinforce``: the plain policy gradient."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..batch import TokenBatch
from .base import LossOutput, PolicyLoss


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

    def token_loss(
        self, logprobs_BL: Tensor, batch: TokenBatch, advantages_BL: Tensor
    ) -> LossOutput:
        """Loss per token [B, L], in the dtype of `logprobs_BL`; 0 outside the mask."""
        return LossOutput(
            -advantages_BL.to(logprobs_BL.dtype) * torch.where(batch.mask_BL, logprobs_BL, 0.0)
        )
