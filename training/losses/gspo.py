"""Loss ``gspo``: one importance ratio for a whole episode, or for a whole turn."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ...agents.models.forward import Scores
from ..batch import TokenBatch
from ..objective import MAX_LOG_RATIO, LossOutput
from .base import Aggregation, PolicyLoss, log_ratios


class Gspo(PolicyLoss):
    """Clipped policy gradient whose ratio is the geometric mean over the tokens of a span.

    ``s = exp(mean over the sampled tokens of the span of (log p - log p_old))``; every token of it
    has ``loss = max(-A * s_t, -A * clip(s_t, 1 - clip_low, 1 + clip_high))`` with ``s_t = sg[s] *
    exp(log p - sg[log p])`` and sg the stop-gradient. A span is an episode, across all its turns
    and sequences, or one turn. With an advantage that is the same on all tokens of the span and
    ``seq_mean_token_mean`` that is the clipped loss of s itself, and its gradient. The clip range
    is three orders smaller than that of ``ppo_clip``, because a mean moves less than a token.

    Metrics: ``clip_fraction_high`` and ``clip_fraction_low``, the share of tokens whose gradient is
    cut, and ``approx_kl`` (k3 estimate of KL(old || new) per token, nats).

    Edge cases: only sampled tokens count in the mean; mean log-ratios are clamped at +-20; on the
    first update s is 1 and nothing is clipped; A = 0 gives gradient 0.

    Paper: "Group Sequence Policy Optimization" (arXiv 2507.18071). Source: the code of
    volcengine/verl and huggingface/trl; the clip range from memory, turns as spans are ours.
    """

    granularity: ClassVar[Literal["token", "batch"]] = "batch"
    name: Literal["gspo"] = "gspo"
    aggregation: Aggregation = Field(
        "seq_mean_token_mean",
        description=(
            "how token losses add up; the default, in which a sequence is an episode, is the"
            " method's"
        ),
    )
    over: Literal["episode", "turn"] = Field(
        "episode", description="whose tokens share one ratio: an episode's or a turn's"
    )
    clip_low: float = Field(
        3e-4, ge=0, le=1, description="the ratio is clipped from below at 1 - clip_low"
    )
    clip_high: float = Field(
        4e-4, ge=0, description="the ratio is clipped from above at 1 + clip_high"
    )

    def batch_loss(
        self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Compute the aggregated loss of a whole batch, and metrics."""
        logprobs_BL = scores.logprobs_BL
        advantages_BL = advantages_BL.to(logprobs_BL.dtype)
        log_ratio_BL = torch.where(batch.mask_BL, logprobs_BL - batch.behaviour_logprobs_BL, 0.0)
        mean_BL = self._mean_BL(log_ratio_BL.detach(), batch)
        moving_BL = torch.where(batch.mask_BL, logprobs_BL - logprobs_BL.detach(), 0.0)
        ratio_BL = (mean_BL.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO) + moving_BL).exp()
        clipped_BL = ratio_BL.clamp(1 - self.clip_low, 1 + self.clip_high)
        loss_BL = torch.maximum(-advantages_BL * ratio_BL, -advantages_BL * clipped_BL)
        with torch.no_grad():
            high_BL = (advantages_BL > 0) & (ratio_BL > 1 + self.clip_high)
            low_BL = (advantages_BL < 0) & (ratio_BL < 1 - self.clip_low)
            bounded_BL = log_ratios(logprobs_BL, batch)
        metrics = {
            "clip_fraction_high": high_BL.to(loss_BL.dtype),
            "clip_fraction_low": low_BL.to(loss_BL.dtype),
            "approx_kl": bounded_BL.exp() - 1 - bounded_BL,
        }
        return self.added_up(LossOutput(loss_BL, metrics), batch)

    def _mean_BL(self, values_BL: Tensor, batch: TokenBatch) -> Tensor:
        """Compute the mean over the span of each sampled token [B, L], 0 elsewhere."""
        if self.over == "turn":
            tokens_ET = batch.per_turn(torch.ones_like(values_BL)).clamp(min=1)
            return batch.spread(batch.per_turn(values_BL) / tokens_ET).to(values_BL.dtype)
        mean_E = batch.per_episode(values_BL.double().sum(1)) / batch.tokens_E.clamp(min=1)
        mean_BL = mean_E[batch.episode_B][:, None].to(values_BL.dtype)
        return torch.where(batch.mask_BL, mean_BL, 0.0)
