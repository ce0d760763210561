"""Regularizer ``kl``: stay close to a reference model."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ...agents.models.forward import Scores
from ...foundation.plugins import Need
from ..batch import TokenBatch
from ..objective import MAX_LOG_RATIO, LossOutput
from .base import Regularizer

MAX_K3 = 10.0


class Kl(Regularizer):
    """Estimate of KL(policy || reference) in nats per sampled token [B, L], as a loss term or as a
    reward.

    The reference is what the block ``reference`` of the stage says: unless it says otherwise, the
    policy as it was at the start of the stage, after the warm start if there is one, which never
    changes. A resumed run keeps it.

    With ``d = log p - log p_ref``, clamped at +-20: ``k1 = d``, ``k2 = d^2 / 2``, ``k3 = exp(-d) -
    1 + d`` (cut to [-10, 10]). k1 and k3 have the right expectation. As a loss on the policy's own
    samples only k2 has the gradient of KL(policy || reference); that of k3 is the gradient of
    KL(reference || policy), and that of k1 is 0 on average. As a reward the estimate is taken from
    the log-probabilities of the rollout, negated and never differentiated.

    Metrics per token: ``kl`` and ``kl_clamped``, the share of tokens where a bound holds: the
    estimate has no gradient there, k3's from ``p_ref / p = 13.6`` and ``p / p_ref = e^11`` on: what
    has gone that far is not drawn back.

    Edge cases: identical models give exactly 0; only sampled tokens count.

    Paper: the estimators are J. Schulman's, "Approximating KL Divergence" (2020). Source: the code
    of volcengine/verl.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.REF_LOGPROBS})
    name: Literal["kl"] = "kl"
    estimator: Literal["k1", "k2", "k3"] = Field(
        "k3", description="how the divergence is estimated from one sample"
    )
    place: Literal["loss", "reward"] = Field(
        "loss", description="where the term acts: on the loss, or as a negative reward per token"
    )

    def token_loss(self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor) -> LossOutput:
        """Compute the estimate [B, L] with gradient, 0 outside the mask.

        All 0 if the term acts on rewards.
        """
        estimate_BL, clamped_BL = self._estimate_BL(scores.logprobs_BL, batch)
        loss_BL = estimate_BL if self.place == "loss" else torch.zeros_like(scores.logprobs_BL)
        return LossOutput(
            loss_BL, {"kl": estimate_BL.detach(), "kl_clamped": clamped_BL.to(loss_BL.dtype)}
        )

    def reward_BL(self, batch: TokenBatch) -> Tensor | None:
        """Compute minus the estimate of the rollout [B, L], 0 outside the mask.

        None if the term acts on the loss.
        """
        return (
            None
            if self.place == "loss"
            else -self._estimate_BL(batch.behaviour_logprobs_BL, batch)[0].detach()
        )

    def _estimate_BL(self, logprobs_BL: Tensor, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Compute the estimate per token [B, L], and tell where a bound holds."""
        free_BL = torch.where(batch.mask_BL, logprobs_BL - batch.logprobs_of("ref"), 0.0)
        d_BL = free_BL.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        far_BL = free_BL.detach().abs() > MAX_LOG_RATIO
        if self.estimator == "k1":
            return d_BL, far_BL
        if self.estimator == "k2":
            return d_BL**2 / 2, far_BL
        k3_BL = (-d_BL).exp() - 1 + d_BL
        return k3_BL.clamp(-MAX_K3, MAX_K3), far_BL | (k3_BL.detach() > MAX_K3)
