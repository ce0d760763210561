"""Truncated importance sampling: the engine that sampled is not exactly the model that is trained.

An engine with other kernels or lower precision samples from a slightly different policy. ``w =
exp(log p_trainer - log p_engine)``, both before the first update, corrects for it; it multiplies
the policy loss, carries no gradient and is cut so that its variance stays bounded.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from ..batch import TokenBatch
from ..objective import MAX_LOG_RATIO


class Importance(BaseModel):
    """The way in which importance weights are formed and cut.

    ``truncate``: ``min(w, cap)``. ``mask``: w, but 0 outside ``[low, cap]``; what is masked was not
    sampled as far as the loss is concerned: it counts in no mean, and no regularizer sees it.
    ``token``: one w per token; ``sequence``: one per episode, from the sum over all of its sampled
    tokens.

    Metrics over the batch: ``importance_max``, the largest weight before it is cut, and
    ``importance_ess``, the effective sample size ``(sum w)^2 / sum w^2`` of the weights that act,
    as a share of the tokens or episodes (1: all count alike; 0: all are masked).

    Edge cases: log-ratios are clamped at +-20; equal log-probabilities give exactly 1.

    Source: the code of volcengine/verl and huggingface/trl.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    mode: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = (
        "token_truncate"
    )
    cap: float | None = Field(
        None, ge=1, description="largest weight (default: 2 for a token, 3 for a sequence)"
    )
    low: float | None = Field(
        None, ge=0, le=1, description="smallest weight a mask keeps (default: 1 / cap)"
    )

    @model_validator(mode="after")
    def _low_needs_mask(self) -> Importance:
        if self.low is not None and not self.mode.endswith("_mask"):
            raise ValueError("'low' belongs to the modes token_mask and sequence_mask")
        return self

    @property
    def largest(self) -> float:
        """Return `cap`, or its default for the mode."""
        return (
            self.cap if self.cap is not None else 3.0 if self.mode.startswith("sequence") else 2.0
        )

    @torch.no_grad()
    def weights(self, batch: TokenBatch) -> tuple[Tensor, Tensor, dict[str, float]]:
        """Compute weights, and whether each was cut, both [B, L], and metrics.

        Weights are in the dtype of the log-probabilities; both are 0 outside the mask.

        Args:
            batch: whole, because an episode may have several rows.
        """
        old_BL, sampled_BL = batch.logprobs_of("old"), batch.logprobs_of("engine")
        mask_BL = batch.mask_BL
        ratio_BL = torch.where(mask_BL, old_BL.double() - sampled_BL.double(), 0.0)
        one_S = mask_BL.nonzero(as_tuple=True)  # where every weight is found once
        if self.mode.startswith("sequence"):
            ratio_E = batch.per_episode(ratio_BL.sum(1))
            ratio_BL = ratio_E[batch.episode_B][:, None].expand_as(ratio_BL)
            one_S = _first_of_episodes(batch, one_S)
        raw_BL = ratio_BL.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        cut_BL = raw_BL > self.largest
        weight_BL = raw_BL.clamp(max=self.largest)
        if self.mode.endswith("mask"):
            cut_BL = cut_BL | (raw_BL < (1 / self.largest if self.low is None else self.low))
            weight_BL = torch.where(cut_BL, 0.0, weight_BL)
        metrics = {"importance_max": float(raw_BL[one_S].max()) if len(one_S[0]) else 0.0}
        metrics["importance_ess"] = effective_share(weight_BL[one_S])
        weight_BL, cut_BL = torch.where(mask_BL, weight_BL, 0.0), cut_BL & mask_BL
        return weight_BL.to(old_BL.dtype), cut_BL.to(old_BL.dtype), metrics


def effective_share(weight_S: Tensor) -> float:
    """Compute the effective sample size as a share of the weights: ``(sum w)^2 / sum w^2 / n``.

    0 if all weights are 0.
    """
    squares = float((weight_S**2).sum())
    return float(weight_S.sum()) ** 2 / squares / len(weight_S) if squares > 0 else 0.0


def _first_of_episodes(batch: TokenBatch, sampled_S: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    episode_S = batch.episode_B[sampled_S[0]]
    first_S = torch.ones_like(episode_S, dtype=torch.bool)
    first_S[1:] = episode_S.diff() != 0  # rows of an episode are neighbours
    return sampled_S[0][first_S], sampled_S[1][first_S]
