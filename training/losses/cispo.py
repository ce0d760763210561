"""Loss ``cispo``: the policy gradient of every token, with a clipped importance weight."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ...agents.models.forward import Scores
from ..batch import TokenBatch
from ..objective import LossOutput
from .base import PolicyLoss, log_ratios


class Cispo(PolicyLoss):
    """Policy gradient per token [B, L] whose importance weight is clipped, not its gradient.

    ``loss = -sg[clip(rho, 1 - clip_low, 1 + clip_high)] * A * log p`` with ``rho = exp(log p - log
    p_old)`` and sg the stop-gradient. Where ``ppo_clip`` stops learning from a token, this one goes
    on with a bounded weight. Without `clip_low` the weight is bounded from above alone.

    Metrics per token: ``clip_fraction_high`` and ``clip_fraction_low`` (the weight is bounded
    there) and ``approx_kl`` (k3 estimate of KL(old || new), nats).

    Edge cases: at rho = 1 it is ``reinforce``; log-ratios are clamped at +-20; A = 0 gives gradient
    0; the value means nothing, only its gradient.

    Paper: "MiniMax-M1" (arXiv 2506.13585). Source: the code of volcengine/verl (both bounds) and of
    huggingface/trl (the upper one, given there as the largest weight itself).
    """

    name: Literal["cispo"] = "cispo"
    clip_low: float | None = Field(
        None, ge=0, le=1, description="the weight is at least 1 - clip_low; null for no such bound"
    )
    clip_high: float = Field(0.28, ge=0, description="the weight is at most 1 + clip_high")

    def token_loss(self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor) -> LossOutput:
        """Compute loss and metrics per token [B, L], in the scores' dtype; 0 outside the mask."""
        logprobs_BL = torch.where(batch.mask_BL, scores.logprobs_BL, 0.0)
        with torch.no_grad():
            log_ratio_BL = log_ratios(logprobs_BL, batch)
            ratio_BL = log_ratio_BL.exp()
            least, most = 1 - (1.0 if self.clip_low is None else self.clip_low), 1 + self.clip_high
            weight_BL = ratio_BL.clamp(least, most)
            metrics = {
                "clip_fraction_high": (ratio_BL > most).to(logprobs_BL.dtype),
                "clip_fraction_low": (ratio_BL < least).to(logprobs_BL.dtype),
                "approx_kl": ratio_BL - 1 - log_ratio_BL,
            }
        return LossOutput(-weight_BL * advantages_BL.to(logprobs_BL.dtype) * logprobs_BL, metrics)
