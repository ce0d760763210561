"""Auxiliary: further batches that an update learns from, beside what was played. The one hook is
`works`::

    class Mine(Auxiliary):  # training/auxiliary/mine.py
        name: Literal["mine"] = "mine"

        async def works(self, view):
            won = [Group(g.task, [e for e in g if e.success]) for g in view.groups]
            batch = view.packed([group for group in won if len(group)])
            ones_BL = batch.mask_BL.double()
            return [Work(self.name, batch, ones_BL, [REINFORCE], scale=self.scale)]

It is asked after credit was assigned and before the update, so that what it has the engine sample
is the policy's own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from pydantic import Field

from ...foundation.plugins import Plugin, Slot
from ..view import StepView
from ..work import Work


class Auxiliary(Plugin):
    """Base of the slot ``training.auxiliary``.

    ``requires`` names what its objectives need of the learner: REF_LOGPROBS, OLD_LOGPROBS.
    """

    scale: float = Field(
        1.0, ge=0, description="factor on its gradient beside that of the step's own batch"
    )

    @abstractmethod
    async def works(self, view: StepView) -> Sequence[Work]:
        """Make the works of a step, none if there is nothing to learn from.

        The name of each begins with the plug-in's own. What is drawn at random is drawn by
        ``view.seed``; the groups of the step stay as they are, so that nothing that is made here
        enters a statistic of theirs.
        """


AUXILIARIES: Slot[Auxiliary] = Slot("turnrl.training.auxiliary", Auxiliary, "Auxiliary batches")
