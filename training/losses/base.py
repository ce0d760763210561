"""PolicyLoss: log-probabilities and advantages in, a loss per token out::

    class Mine(PolicyLoss):                                               # training/losses/mine.py
        name: Literal["mine"] = "mine"

        def token_loss(self, scores, batch, advantages_BL):
            return LossOutput(-advantages_BL * scores.logprobs_BL)

A loss never sees rewards. How tokens add up is a separate choice, `aggregation`, expressed as one
weight per token that is computed on the whole optimiser batch: a micro-batch is then a plain
partial sum, and cutting an episode into several sequences changes nothing. What needs whole
episodes of the policy that played is computed once, in `prepare`; what needs those of the policy
that learns is a `batch_loss` (`turnrl.training.objective`).
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from ...agents.models.forward import Scores
from ...foundation.plugins import Need, Slot
from ..batch import TokenBatch
from ..objective import MAX_LOG_RATIO, LossOutput, Objective
from ._importance import Importance

Aggregation = Literal[
    "token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm"
]


class PolicyLoss(Objective):
    """Base of the slot ``training.losses``. ``requires`` may name OLD_LOGPROBS and REF_LOGPROBS of
    `Need`.
    """

    skips_zero: ClassVar[bool] = True
    """A token with advantage 0 has no gradient, so the trainer may leave out sequences that have no
    other.
    """

    aggregation: Aggregation = Field(
        "token_mean",
        description=(
            "how token losses add up; a sequence is an episode. The first two divide by lengths"
            " that were sampled, which biases every credit (docs/estimators.md)"
        ),
    )
    norm_length: int | None = Field(
        None,
        ge=1,
        description=(
            "the constant of seq_mean_token_sum_norm, in tokens (default: the recipe's max_turns x"
            " max_tokens)"
        ),
    )

    importance: Importance | None = Field(
        None, description="correct for an engine whose log-probabilities differ from the trainer's"
    )

    def needs(self) -> frozenset[Need]:
        """Name what the loss requires; with `importance` the trainer's log-probabilities too."""
        return self.requires | ({Need.OLD_LOGPROBS} if self.importance else frozenset())

    def of_length(self, tokens: int) -> Self:
        """Return this loss with a `norm_length`, if it has none.

        That is as many tokens as an episode can have.
        """
        return (
            self
            if self.norm_length is not None
            else self.model_copy(update={"norm_length": tokens})
        )

    def prepare(self, batch: TokenBatch) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Compute what a micro-batch cannot know, from the whole batch before it is cut.

        Returns:
            Signals that the learner lays beside the tokens, named with their axes, and metrics.
        """
        if not self.importance:
            return {}, {}
        weight_BL, cut_BL, metrics = self.importance.weights(batch)
        return {"importance_BL": weight_BL, "importance_cut_BL": cut_BL}, metrics

    def __call__(self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor) -> LossOutput:
        """Compute `token_loss`, times the importance weights if they are configured."""
        return self.corrected(self.token_loss(scores, batch, advantages_BL), batch)

    def corrected(self, out: LossOutput, batch: TokenBatch) -> LossOutput:
        """Multiply a loss per token with the importance weights if they are configured.

        Call it after `prepare`.
        """
        if self.importance:
            if "importance_BL" not in batch.signals:
                raise ValueError("importance weights: the signals of prepare(batch) are missing")
            weight_BL = batch.signals["importance_BL"].to(out.loss_BL.dtype)
            out.loss_BL = out.loss_BL * weight_BL
            out.metrics |= {
                "importance_weight": weight_BL,
                "importance_cut": batch.signals["importance_cut_BL"],
            }
        return out

    def added_up(self, out: LossOutput, batch: TokenBatch) -> tuple[Tensor, dict[str, float]]:
        """Add up a loss per token, the answer of a `batch_loss`; average metrics over the mask."""
        out = self.corrected(out, batch)
        weights_BL, mask_BL = self.weights_BL(batch, out.loss_BL.dtype), batch.mask_BL
        tokens = max(int(mask_BL.sum()), 1)
        metrics = {n: float(v[mask_BL].double().sum()) / tokens for n, v in out.metrics.items()}
        return (torch.where(mask_BL, out.loss_BL, 0.0) * weights_BL).sum(), metrics

    def weights_BL(self, batch: TokenBatch, dtype: torch.dtype = torch.float32) -> Tensor:
        """Compute a weight per token [B, L], 0 outside the mask, that says how tokens add up.

        The loss of a batch is ``(loss_BL * weights_BL).sum()``.

        Episodes without a sampled token count in no mean, and (after `prepare`) tokens that
        importance sampling masks do not either. Raises ValueError if the aggregation needs a
        `norm_length` and there is none.
        """
        mask_BL = batch.mask_BL
        if (
            self.importance
            and self.importance.mode.endswith("mask")
            and "importance_cut_BL" in batch.signals
        ):
            mask_BL = mask_BL & (batch.signals["importance_cut_BL"] == 0)
        tokens_E = batch.per_episode(mask_BL.sum(1))
        full_E = partial(torch.full_like, tokens_E, dtype=torch.float64)
        episodes = max(int((tokens_E > 0).sum()), 1)
        if self.aggregation == "token_mean":
            weight_E = full_E(1.0 / max(int(tokens_E.sum()), 1))
        elif self.aggregation == "seq_mean_token_mean":
            weight_E = 1.0 / (episodes * tokens_E.clamp(min=1).double())
        elif self.aggregation == "seq_mean_token_sum":
            weight_E = full_E(1.0 / episodes)
        else:
            if self.norm_length is None:
                raise ValueError(
                    "seq_mean_token_sum_norm needs norm_length: the most tokens that an episode can"
                    " have"
                )
            weight_E = full_E(1.0 / (episodes * self.norm_length))
        return (weight_E[batch.episode_B][:, None] * mask_BL).to(dtype)


def log_ratios(logprobs_BL: Tensor, batch: TokenBatch) -> Tensor:
    """Compute ``log p - log p_old`` of the sampled tokens [B, L], clamped; 0 elsewhere."""
    log_ratio_BL = torch.where(batch.mask_BL, logprobs_BL - batch.behaviour_logprobs_BL, 0.0)
    return log_ratio_BL.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


LOSSES: Slot[PolicyLoss] = Slot("turnrl.training.losses", PolicyLoss, "Policy losses")
