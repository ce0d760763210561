"""Regularizer ``entropy``: a bonus for staying undecided."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...foundation.plugins import Need
from ..batch import TokenBatch
from ..losses.base import LossOutput
from .base import Regularizer


class Entropy(Regularizer):
    """Minus the entropy of the next-token distribution at every sampled token [B, L], in nats.

    ``loss = -H``, ``H = -sum_v p(v) log p(v)`` over the whole vocabulary, from the logits and with
    gradient.

    Edge cases: positions outside the mask are ignored; a coefficient of 0 only reports the entropy.

    Paper: "Asynchronous Methods for Deep Reinforcement Learning" (arXiv 1602.01783). Source:
    standard in the field.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.ENTROPY})
    name: Literal["entropy"] = "entropy"

    def token_loss(
        self, logprobs_BL: Tensor, batch: TokenBatch, entropy_BL: Tensor | None
    ) -> LossOutput:
        """Minus the entropy with gradient, 0 outside the mask. Metric per token: ``entropy``."""
        if entropy_BL is None:
            raise ValueError("entropy needs entropy_BL")
        masked_BL = torch.where(batch.mask_BL, entropy_BL, 0.0)
        return LossOutput(-masked_BL, {"entropy": masked_BL.detach()})
