"""Companions: who acts beside the walk of a stage, in every step.

Auxiliaries bring further batches to an update, controllers steer it, diagnostics look at what came
of it. The walk is the same without them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from ..envs.faults import Faults
from ..foundation.plugins import Plugin
from . import boundaries
from .view import StepView
from .work import Work

if TYPE_CHECKING:
    from .controllers.base import Steerable
    from .stages.rl import Rl


class Companions:
    """The auxiliaries, controllers and diagnostics of a stage.

    Args:
        stage: its configuration.
        faults: where diagnostics that raise are told.
    """

    def __init__(self, stage: Rl, faults: Faults) -> None:
        self.auxiliaries = [auxiliary.begin() for auxiliary in stage.auxiliary]
        self.controllers = [controller.begin() for controller in stage.controllers]
        self.diagnostics = [diagnostic.begin() for diagnostic in stage.diagnostics]
        self.faults = faults

    @property
    def plugins(self) -> Sequence[Plugin]:
        """List all plug-ins: auxiliaries, controllers and diagnostics."""
        return [*self.auxiliaries, *self.controllers, *self.diagnostics]

    async def works(self, view: StepView) -> list[Work]:
        """Collect what the auxiliaries bring, in order."""
        found = [await boundaries.works_of(auxiliary, view) for auxiliary in self.auxiliaries]
        return [work for works in found for work in works]

    def steer(self, view: StepView, learner: Steerable, *, updated: bool) -> dict[str, float]:
        """Let the controllers act, in order; return the factors as they are then.

        Empty if there is no controller.
        """
        for controller in self.controllers:
            boundaries.steer(controller, view, learner, updated=updated)
        if not self.controllers:
            return {}
        return {f"factor/{name}": float(value) for name, value in learner.factors.items()}

    def diagnose(self, view: StepView, due: Callable[[int], bool]) -> dict[str, float]:
        """Collect what the diagnostics measure; one that raises is told once and has no numbers.

        Args:
            due: tells whether something that is done every so many steps is done in this one.
        """
        found: dict[str, float] = {}
        device = view.batch.device
        for diagnostic in self.diagnostics:
            if not due(diagnostic.every):
                continue
            # What it draws at random is drawn from a stream that nobody else goes on with.
            streams = [device] if device.type == "cuda" else []
            with torch.no_grad(), torch.random.fork_rng(devices=streams):
                try:
                    found |= boundaries.diagnosed(diagnostic, view)
                except Exception as error:
                    said = f"step {view.step + 1}: {error}: its numbers are left out"
                    self.faults.note(f"diagnostic '{diagnostic.name}'", said)
        return found
