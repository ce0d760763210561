"""Who steers an update, in one file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from turnrl.training.controllers.base import Controller, Steerable
from turnrl.training.view import StepView


class Thaw(Controller):
    """Multiply the coefficient of the entropy bonus after every step.

    Source: an example.
    """

    name: Literal["thaw"] = "thaw"
    by: float = Field(0.5, gt=0, description="factor of a step")

    def steers(self) -> frozenset[str]:
        """Name the entropy bonus."""
        return frozenset({"entropy"})

    def after_update(self, view: StepView, learner: Steerable) -> None:
        """Set the factor."""
        learner.factors["entropy"] *= self.by
