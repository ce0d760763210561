"""Loss ``ppo_clip``: the clipped surrogate of PPO."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ...agents.models.forward import Scores
from ..batch import TokenBatch
from ..objective import LossOutput
from .base import PolicyLoss, log_ratios


class PpoClip(PolicyLoss):
    """Clipped importance-weighted policy gradient per token [B, L].

    ``loss = max(-A * rho, -A * clip(rho, 1 - clip_low, 1 + clip_high))`` with ``rho = exp(log p -
    log p_old)``; with `dual_clip` c, where A < 0, ``loss = min(loss, -A * c)``. ``clip_high`` 0.28
    is "clip higher". The ratio is taken against the trainer's log-probabilities before the first
    update if some plug-in asked for them, else the engine's.

    Metrics per token: ``clip_fraction_high``, ``clip_fraction_low``, ``clip_fraction_dual`` (the
    gradient is cut there) and ``approx_kl`` (k3 estimate of KL(old || new), nats).

    Edge cases: log-ratios are clamped at +-20, where the gradient ends; on the first update rho is
    1 and nothing is clipped; A = 0 gives gradient 0.

    Papers: PPO, arXiv 1707.06347; dual clip, arXiv 1912.09729; clip higher, arXiv 2503.14476.
    Source: the code of volcengine/verl.
    """

    name: Literal["ppo_clip"] = "ppo_clip"
    clip_low: float = Field(
        0.2, ge=0, le=1, description="the ratio is clipped from below at 1 - clip_low"
    )
    clip_high: float = Field(
        0.2, ge=0, description="the ratio is clipped from above at 1 + clip_high"
    )
    dual_clip: float | None = Field(
        None, gt=1, description="bound of the loss in units of -A where A < 0"
    )

    def token_loss(self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor) -> LossOutput:
        """Compute loss and metrics per token [B, L], in the scores' dtype; 0 outside the mask."""
        logprobs_BL = scores.logprobs_BL
        advantages_BL = advantages_BL.to(logprobs_BL.dtype)
        log_ratio_BL = log_ratios(logprobs_BL, batch)
        ratio_BL = log_ratio_BL.exp()
        clipped_BL = ratio_BL.clamp(1 - self.clip_low, 1 + self.clip_high)
        loss_BL = torch.maximum(-advantages_BL * ratio_BL, -advantages_BL * clipped_BL)
        with torch.no_grad():
            high_BL = (advantages_BL > 0) & (ratio_BL > 1 + self.clip_high)
            low_BL = (advantages_BL < 0) & (ratio_BL < 1 - self.clip_low)
            dual_BL = (advantages_BL < 0) & (ratio_BL > (self.dual_clip or float("inf")))
            approx_kl_BL = ratio_BL - 1 - log_ratio_BL
        if self.dual_clip is not None:
            loss_BL = torch.where(dual_BL, -advantages_BL * self.dual_clip, loss_BL)
        metrics = {
            "clip_fraction_high": high_BL.to(loss_BL.dtype),
            "clip_fraction_low": low_BL.to(loss_BL.dtype),
            "clip_fraction_dual": dual_BL.to(loss_BL.dtype),
            "approx_kl": approx_kl_BL,
        }
        return LossOutput(loss_BL, metrics)
