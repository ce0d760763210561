"""A number about each step in one file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from turnrl.training.diagnostics.base import Diagnostic
from turnrl.training.view import StepView


class Longest(Diagnostic):
    """Measure how many tokens the longest episode has.

    Source: an example.
    """

    name: Literal["longest"] = "longest"

    def __call__(self, view: StepView) -> Mapping[str, float]:
        """Return the number of sampled tokens."""
        return {"tokens": float(view.batch.tokens_E.max())}
