"""Controller: steers the learner from step to step, by what was measured. It has two hooks::

    class Twice(Controller):  # training/controllers/twice.py
        name: Literal["twice"] = "twice"

        def after_update(self, view, learner):
            if view.metrics["entropy"] < 0.1:
                learner.factors["entropy"] *= 2

It may set factors on the coefficients of objectives, keep snapshots of the learner and go back to
one; nothing else of a run is its to change. What it remembers is saved with the run, snapshots
excepted: keep those that are to outlive a step out of `state_dict`, and do without them after a
resume.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ...foundation.plugins import Plugin, Slot
from ..view import StepView


class Steerable(Protocol):
    """What a controller may do with a learner."""

    factors: dict[str, float]
    """On the coefficient of each objective, by its name; 1 leaves it as the recipe has it."""

    def snapshot(self) -> dict[str, Any]:
        """Copy all that an update changes.

        That is weights, optimiser, average, critic, reference, factors, and what plug-ins of the
        update remember.
        """

    def rollback(self, snapshot: Mapping[str, Any]) -> None:
        """Undo every update since a `snapshot` was taken; one can be used many times."""


class Controller(Plugin):
    """Base of the slot ``training.controllers``."""

    def steers(self) -> frozenset[str]:
        """Name the losses and regularizers of the stage without which it has nothing to do."""
        return frozenset()

    def before_update(self, view: StepView, learner: Steerable) -> None:
        """Act before the update of a step; the metrics are those of play and credit."""

    def after_update(self, view: StepView, learner: Steerable) -> None:
        """Act after the update of a step, before anybody plays with the new weights.

        The metrics have those of the update.
        """


CONTROLLERS: Slot[Controller] = Slot("turnrl.training.controllers", Controller, "Controllers")
