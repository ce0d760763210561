"""A policy loss of whole episodes in one file."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from turnrl.agents.models.forward import Scores
from turnrl.training.batch import TokenBatch
from turnrl.training.losses.base import PolicyLoss


class Episodic(PolicyLoss):
    """Minus the advantage of an episode times its likelihood ratio, averaged over episodes.

    Source: an example.
    """

    granularity: ClassVar[Literal["token", "batch"]] = "batch"
    name: Literal["episodic"] = "episodic"

    def batch_loss(
        self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the mean over episodes, and its largest ratio."""
        moved_BL = (scores.logprobs_BL - batch.behaviour_logprobs_BL) * batch.mask_BL
        ratio_E = batch.per_episode(moved_BL.sum(1)).exp()
        advantage_E = batch.per_episode(advantages_BL.sum(1)) / batch.tokens_E.clamp(min=1)
        return -(advantage_E * ratio_E).mean(), {"ratio/max": float(ratio_E.max())}
