"""A further batch in one file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from turnrl.agents.episode import Group
from turnrl.training.auxiliary.base import Auxiliary
from turnrl.training.losses.base import LOSSES
from turnrl.training.view import StepView
from turnrl.training.work import Work


class Encore(Auxiliary):
    """Imitate the episodes of the step that reached the goal.

    Source: an example.
    """

    name: Literal["encore"] = "encore"

    async def works(self, view: StepView) -> Sequence[Work]:
        """Return the successes as one work, if there are any."""
        won = [Group(g.task, [e for e in g if e.success]) for g in view.groups]
        won = [group for group in won if len(group)]
        if not won:
            return []
        batch = view.packed(won)
        loss = LOSSES.build({"name": "reinforce"})
        return [Work(self.name, batch, batch.mask_BL.double(), [loss], scale=self.scale)]
