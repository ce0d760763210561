"""Truncated importance sampling: the engine that sampled is not exactly the model that is trained.

An engine with other kernels or lower precision samples from a slightly different policy. ``w = exp(log p_trainer -
log p_engine)``, both before the first update, corrects for it; it multiplies the policy loss, carries no gradient and
is cut so that its variance stays bounded.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from ..batch import TokenBatch

MAX_LOG_RATIO = 20.0


class Importance(BaseModel):
    """How the weights are formed and cut.

    ``truncate``: ``min(w, cap)``. ``mask``: w, but 0 outside ``[low, cap]``. ``token``: one w per token; ``sequence``:
    one per episode, from the sum over all of its sampled tokens. Masked tokens stay in the loss's denominators.

    Edge cases: log-ratios are clamped at +-20; equal log-probabilities give exactly 1.

    Provenance: CODE, volcengine/verl, huggingface/trl.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    mode: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = "token_truncate"
    cap: float = Field(2.0, ge=1, description="largest weight")
    low: float | None = Field(None, ge=0, le=1, description="smallest weight a mask keeps (default: 1 / cap)")

    @model_validator(mode="after")
    def _low_needs_mask(self) -> Importance:
        if self.low is not None and not self.mode.endswith("_mask"):
            raise ValueError("'low' belongs to the modes token_mask and sequence_mask")
        return self

    @torch.no_grad()
    def weights(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Weights and whether each was cut, both [B, L] like the log-probabilities; 0 outside the mask.

        Args:
            batch: whole, because an episode may have several rows.
        """
        if batch.old_logprobs_BL is None:
            raise ValueError("importance weights need old_logprobs_BL")
        mask_BL = batch.mask_BL
        ratio_BL = torch.where(mask_BL, batch.old_logprobs_BL.double() - batch.logprobs_BL.double(), 0.0)
        if self.mode.startswith("sequence"):
            ratio_E = ratio_BL.new_zeros(batch.episodes).index_add_(0, batch.episode_B, ratio_BL.sum(1))
            ratio_BL = ratio_E[batch.episode_B][:, None].expand_as(ratio_BL)
        weight_BL = ratio_BL.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        cut_BL = weight_BL > self.cap
        if self.mode.endswith("mask"):
            cut_BL = cut_BL | (weight_BL < (1 / self.cap if self.low is None else self.low))
            weight_BL = torch.where(cut_BL, 0.0, weight_BL)
        weight_BL = torch.where(mask_BL, weight_BL.clamp(max=self.cap), 0.0)
        return weight_BL.to(batch.old_logprobs_BL.dtype), (cut_BL & mask_BL).to(batch.old_logprobs_BL.dtype)
