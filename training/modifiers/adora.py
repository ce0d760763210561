"""Modifier ``adora``: full weight only for groups in which right answers take longer than wrong
ones.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..batch import TokenBatch, map_groups
from .base import Modifier, by_episode, lengths_E


class Adora(Modifier):
    """Multiplies the advantages of a group by `factor` unless it is temporarily advantageous.

    A group is advantageous if some episode succeeded and the longest success is longer than the
    mean failure; failures that a limit cut do not count in that mean.

    Edge cases: a group without such failures is advantageous, one without a success is not.

    Source: the code of ShadeCloak/ADORA for the factor; the predicate is inspired by it.
    """

    name: Literal["adora"] = "adora"
    factor: float = Field(
        0.1, ge=0, description="factor on the advantages of groups that are not advantageous"
    )
    length: Literal["tokens", "turns"] = Field(
        "tokens", description="unit of the length of an episode"
    )

    def __call__(self, advantages_BL: Tensor, batch: TokenBatch) -> Tensor:
        """Multiply the advantages [B, L] of groups without a temporary advantage by `factor`."""
        length_E = lengths_E(batch, self.length)
        factor_E = torch.full_like(length_E, self.factor)

        def judge(index: Tensor) -> None:
            right = index[batch.success_E[index]]
            wrong = index[~batch.success_E[index] & batch.terminated_E[index]]
            if len(right) and (not len(wrong) or length_E[right].max() > length_E[wrong].mean()):
                factor_E[index] = 1.0

        map_groups(batch.group_E, judge)
        return advantages_BL * by_episode(factor_E, batch)
