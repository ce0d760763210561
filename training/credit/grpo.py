"""Credit ``grpo``: the episode's return in standard deviations of its group."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from ..batch import TokenBatch
from ._stats import centre_E, group_stats, per_turn, returns_E
from .base import Credit


class Grpo(Credit):
    """Group z-score of the return, the same on every turn of the episode [E, T].

    ``A_i = (R_i - mean_g) / (std_g + eps)``, with R_i the weighted sum of all rewards of episode i, and mean and
    unbiased standard deviation over the episodes of its group, one value per episode however long it was.

    Edge cases: a group whose deviation is at most 1e-8, and a group of one, give exactly 0.

    Paper: "DeepSeekMath" (arXiv 2402.03300). Provenance: CODE, volcengine/verl (eps 1e-6), huggingface/trl (eps 1e-4).
    """

    name: Literal["grpo"] = "grpo"
    eps: float = Field(1e-6, ge=0, description="added to the group's standard deviation")

    def __call__(self, rewards_KET: Tensor, batch: TokenBatch) -> Tensor:
        """Advantages [E, T], float64."""
        return_E = returns_E(rewards_KET, batch)
        std_E = group_stats(return_E, batch.group_E)[1]
        centred_E = centre_E(return_E, batch.group_E)
        return per_turn(centred_E / (std_E + self.eps).where(centred_E != 0, 1.0), batch)
