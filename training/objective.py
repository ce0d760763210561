"""Objective: what an update makes smaller, as a function of a few numbers per token.

Its granularity says which of two hooks it has. A *token* objective is a number for each token, seen
in any cut of the batch; a *batch* objective is one number of whole episodes or groups, and sees the
whole batch that an optimiser step is taken on::

    def token_loss(self, scores, batch, advantages_BL):
        return LossOutput(-advantages_BL * scores.logprobs_BL)

    def batch_loss(self, scores, batch, advantages_BL):
        return batch.per_episode(scores.logprobs_BL.sum(1)).square().mean(), {}

Nobody has to hold a whole batch's activations for the second kind: the learner differentiates it
with respect to the scores alone, and carries their coefficients into micro-batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from ..agents.models.forward import Probe, Scores
from ..foundation.plugins import Plugin
from .batch import TokenBatch

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped at plus and minus this many nats before they are exponentiated."""


@dataclass(slots=True)
class LossOutput:
    """A loss per token [B, L] (anything outside the mask) and metrics per token [B, L] to be
    averaged over the mask.
    """

    loss_BL: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Objective(Plugin):
    """Base of policy losses and regularizers: a term of the sum that is minimised."""

    granularity: ClassVar[Literal["token", "batch"]] = "token"
    """Which hook it has: `token_loss` or `batch_loss`."""
    whole: ClassVar[Literal["episode", "group"]] = "episode"
    """What no minibatch takes apart, because its value is one of each such thing."""
    coefficient: float = Field(1.0, ge=0, description="weight of the term")

    def model_post_init(self, context: Any) -> None:
        """Raise TypeError if the hook of the objective's granularity is missing."""
        hook = f"{self.granularity}_loss"
        if getattr(type(self), hook) is getattr(Objective, hook):
            raise TypeError(f"{type(self).__name__} has no method '{hook}'")

    def probes(self) -> Mapping[str, Probe]:
        """Name what the objective reads of the logits beside the log-probability.

        By its name in `Scores.of`.
        """
        return {}

    def token_loss(self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor) -> LossOutput:
        """Compute the unweighted term per token, with gradient through the scores only."""
        raise NotImplementedError

    def batch_loss(
        self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Compute the unweighted term of a whole batch, and metrics.

        The gradient goes through the scores only.
        """
        raise NotImplementedError

    def __call__(self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor) -> LossOutput:
        """Compute the term per token as it is minimised."""
        return self.token_loss(scores, batch, advantages_BL)
