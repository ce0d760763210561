"""Selection: which of the played groups are learnt from. The one hook judges a group by itself::

    class Mixed(Selection):
        name: Literal["mixed"] = "mixed"

        def __call__(self, group, returns):
            return group if len({episode.success for episode in group}) == 2 else None

A group that is dropped is replaced by playing another task, in up to `refill` rounds; if that does
not suffice the batch is smaller, and the metrics say so. Nothing is ever learnt from twice to fill
a batch.

To choose by what came out changes the mean of the gradient, unless what is dropped had no
advantage: each plug-in says by how much.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from pydantic import Field

from ...agents.episode import Group
from ...foundation.plugins import Plugin, Slot


class Selection(Plugin):
    """Base of the slot ``training.selection``."""

    refill: int = Field(
        0, ge=0, description="rounds in which other tasks are played in place of dropped groups"
    )

    def possible(self, size: int) -> bool:
        """Tell whether a group of so many episodes could be kept, whatever they did."""
        return size > 0

    @abstractmethod
    def __call__(self, group: Group, returns: Sequence[float]) -> Group | None:
        """Return the group, a smaller one made of some of its episodes, or None to drop it.

        Args:
            returns: weighted sum of all rewards, per episode.
        """


SELECTIONS: Slot[Selection] = Slot("turnrl.training.selection", Selection, "Selection")
