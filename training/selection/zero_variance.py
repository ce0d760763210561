"""Selection ``zero_variance``: groups whose episodes all did equally well teach nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from ...agents.episode import Group
from .base import Selection


class ZeroVariance(Selection):
    """Drops groups whose returns are all equal (within 1e-8), and plays others instead.

    What it does to the gradient: dropped groups are the same as ones that say nothing, for every
    estimator that gives them advantages of exactly 0. In front of ``rloo`` it has no bias: the
    gradient of a full batch is only longer, by 1 over the share of groups that are kept. Estimators
    that credit turns apart (``turn_return``) lose what such groups would have said. Exact figures:
    docs/estimators.md.

    Edge cases: a group of one has no variance; if nothing is left after the last round, the step is
    skipped.

    Paper: DAPO, dynamic sampling (arXiv 2503.14476). Source: standard in the field; the number of
    rounds is ours.
    """

    name: Literal["zero_variance"] = "zero_variance"
    refill: int = Field(
        3, ge=0, description="rounds in which other tasks are played in place of dropped groups"
    )

    def possible(self, size: int) -> bool:
        """Tell whether the group is larger than one: two episodes can differ, one cannot."""
        return size > 1

    def __call__(self, group: Group, returns: Sequence[float]) -> Group | None:
        """Keep the group if its returns differ."""
        return group if max(returns) - min(returns) > 1e-8 else None
