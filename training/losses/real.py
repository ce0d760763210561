"""Loss ``real``: a classifier of successes and failures inside each group."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ...agents.models.forward import Scores
from ..batch import TokenBatch
from .base import PolicyLoss


class Real(PolicyLoss):
    """A soft count, over a group, of successes that became unlikelier and failures likelier.

    With ``z_i`` the mean of ``log p - log p_old`` over the sampled tokens of episode i, a group has
    ``loss = log(1 + sum over successes of exp(-z_i / tau)) + log(1 + sum over failures of exp(z_i /
    tau))``; the loss of a batch is the mean over its groups. Success is the world's verdict:
    advantages and rewards are not looked at, nor is `aggregation`, which only says how regularizers
    add up.

    Metric: ``margin``, the mean of z over successes minus that over failures (0 while one of the
    two is missing).

    Edge cases: a group of one kind keeps the term of that kind; on the first update z is 0 and the
    loss of a group is ``log(1 + successes) + log(1 + failures)``; episodes without a sampled token
    count nowhere.

    Raises:
        UserError: it is built with importance weights, which are per token.

    Source: a description of the paper and the documentation of ms-swift.
    """

    granularity: ClassVar[Literal["token", "batch"]] = "batch"
    whole: ClassVar[Literal["episode", "group"]] = "group"
    skips_zero: ClassVar[bool] = False
    name: Literal["real"] = "real"
    tau: float = Field(0.5, gt=0, description="temperature: smaller looks at the worst episodes")

    @model_validator(mode="after")
    def _without_weights(self) -> Real:
        if self.importance is not None:
            raise ValueError("importance multiplies losses per token, and this one is per group")
        return self

    def batch_loss(
        self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Compute the mean over groups, and metrics."""
        ratio_BL = scores.logprobs_BL - batch.behaviour_logprobs_BL
        sums_E = batch.per_episode(torch.where(batch.mask_BL, ratio_BL, 0.0).sum(1))
        mean_E = sums_E / batch.tokens_E.clamp(min=1)
        spoke_E, won_E = batch.tokens_E > 0, batch.success_E
        index_E, count_G = batch.group_E[spoke_E].unique(return_inverse=True, return_counts=True)[
            1:
        ]
        total = sums_E.new_zeros(())
        for wanted, sign in ((won_E, -1.0), (~won_E, 1.0)):
            chosen_E = wanted[spoke_E]
            terms_E = sign * mean_E[spoke_E][chosen_E] / self.tau
            total = total + _log_one_plus_sum_exp(terms_E, index_E[chosen_E], len(count_G)).sum()
        kinds = [mean_E.detach()[spoke_E & kind] for kind in (won_E, ~won_E)]
        margin = float(kinds[0].mean() - kinds[1].mean()) if all(map(len, kinds)) else 0.0
        return total / max(len(count_G), 1), {"margin": margin}


def _log_one_plus_sum_exp(values_N: Tensor, index_N: Tensor, groups: int) -> Tensor:
    """Compute ``log(1 + sum exp(values))`` of each group [G], without overflow."""
    most_G = values_N.new_zeros(groups).scatter_reduce(0, index_N, values_N.detach(), "amax")
    shifted_N = (values_N - most_G[index_N]).exp()
    return most_G + ((-most_G).exp().index_add(0, index_N, shifted_N)).log()
