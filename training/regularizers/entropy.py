"""Regularizer ``entropy``: a bonus for staying undecided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ...agents.models.forward import Probe, Scores, entropy
from ..batch import TokenBatch
from ..objective import LossOutput
from .base import Regularizer


class Entropy(Regularizer):
    """Minus the entropy of the next-token distribution at every sampled token [B, L], in nats.

    ``loss = -H``, ``H = -sum_v p(v) log p(v)`` over the whole vocabulary, from the logits and with
    gradient.

    Edge cases: positions outside the mask are ignored; a coefficient of 0 only reports the entropy.

    Paper: "Asynchronous Methods for Deep Reinforcement Learning" (arXiv 1602.01783). Source:
    standard in the field.
    """

    name: Literal["entropy"] = "entropy"

    def probes(self) -> Mapping[str, Probe]:
        """Ask for the entropy with its gradient."""
        return {"entropy": entropy}

    def token_loss(self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor) -> LossOutput:
        """Compute minus the entropy [B, L] with gradient, 0 outside the mask.

        Metric per token: ``entropy``.
        """
        masked_BL = torch.where(batch.mask_BL, scores.of["entropy"], 0.0)
        return LossOutput(-masked_BL, {"entropy": masked_BL.detach()})
