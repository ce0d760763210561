"""Selection ``balanced_difficulty``: tasks that the policy sometimes solves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from ...agents.episode import Group
from .base import Selection


class BalancedDifficulty(Selection):
    """Keeps groups with ``low <= share of successes <= high``, and plays others until the batch has
    its size.

    The variance p (1 - p) of the outcome bounds from below how far one batch can move the policy;
    it is largest at 1/2.

    What it does to the gradient: it is that of the tasks and groups that are kept, so tasks of
    middling difficulty weigh more. In front of ``rloo`` it has a bias of up to 6.6 % of the
    gradient (groups of four; up to 18.9 % with eight, where tasks differ in difficulty). Exact
    figures: docs/estimators.md.

    Edge cases: both bounds are inclusive; a batch that stays short after the last round is smaller.

    Paper: "Online Difficulty Filtering for Reasoning Oriented Reinforcement Learning" (arXiv
    2504.03380). Source: a description of the paper; the number of rounds is ours.
    """

    name: Literal["balanced_difficulty"] = "balanced_difficulty"
    refill: int = Field(
        3, ge=0, description="rounds in which other tasks are played in place of dropped groups"
    )
    low: float = Field(0.2, ge=0, le=1, description="smallest share of successes")
    high: float = Field(0.8, ge=0, le=1, description="largest share of successes")

    @model_validator(mode="after")
    def _ordered(self) -> BalancedDifficulty:
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high}")
        return self

    def possible(self, size: int) -> bool:
        """Tell whether some number of successes among so many lies between the bounds."""
        return any(self._between(successes, size) for successes in range(size + 1))

    def __call__(self, group: Group, returns: Sequence[float]) -> Group | None:
        """Keep the group if it is neither too easy nor too hard."""
        return (
            group if self._between(sum(episode.success for episode in group), len(group)) else None
        )

    def _between(self, successes: int, size: int) -> bool:
        return self.low - 1e-9 <= successes / size <= self.high + 1e-9
