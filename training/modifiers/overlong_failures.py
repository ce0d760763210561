"""Modifier ``overlong_failures``: a failure that took longer than the successes of its group weighs
more.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..batch import TokenBatch, map_groups
from .base import Modifier, by_episode, lengths_E


class OverlongFailures(Modifier):
    """Multiplies the advantages of a failed episode by ``2 - base^-(c - m)`` if its length c
    exceeds m.

    m is the mean length of the successes of its group; the factor lies between 1 and 2.

    Edge cases: groups without a success, and failures no longer than m, keep their advantages.

    Source: the code of Indolent-Kawhi/View-R1 (APO-STCR).
    """

    name: Literal["overlong_failures"] = "overlong_failures"
    base: float = Field(
        1.00001, gt=1, description="base of the factor, which approaches 2 faster for a larger one"
    )
    length: Literal["tokens", "turns"] = Field(
        "tokens", description="unit of the length of an episode"
    )

    def __call__(self, advantages_BL: Tensor, batch: TokenBatch) -> Tensor:
        """Multiply the advantages [B, L] of failures that took longer than successes."""
        length_E = lengths_E(batch, self.length)
        factor_E = torch.ones_like(length_E)

        def judge(index: Tensor) -> None:
            right, wrong = index[batch.success_E[index]], index[~batch.success_E[index]]
            if len(right):
                excess = (length_E[wrong] - length_E[right].mean()).clamp(min=0)
                factor_E[wrong] = 2 - self.base**-excess

        map_groups(batch.group_E, judge)
        return advantages_BL * by_episode(factor_E, batch)
