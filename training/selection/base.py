"""Selection: which of the played groups are learnt from. It has one of two hooks. The simple one
judges a group by itself::

    class Mixed(Selection):
        name: Literal["mixed"] = "mixed"

        def __call__(self, group, returns):
            return group if len({episode.success for episode in group}) == 2 else None

The wide one sees all groups of a round of play, may wait, and may have tasks played again, with a
hint if it likes::

    class Again(Selection):
        name: Literal["again"] = "again"

        async def choose(self, groups, returns, replay):
            lost = [group for group in groups if not any(episode.success for episode in group)]
            again, _ = await replay([group.task for group in lost], ["Think first."] * len(lost))
            better = {id(old): new for old, new in zip(lost, again) if any(e.success for e in new)}
            return [better.get(id(group), group) for group in groups]

A group that is dropped is replaced by playing another task, in up to `refill` rounds; if that does
not suffice the batch is smaller, and the metrics say so. Nothing is ever learnt from twice to fill
a batch.

To choose by what came out changes the mean of the gradient, unless what is dropped had no
advantage: each plug-in says by how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pydantic import Field

from ...agents.episode import Group
from ...envs import Task
from ...foundation.plugins import Plugin, Slot


class Replay(Protocol):
    """How a selection has tasks played again in the step at hand."""

    async def __call__(
        self, tasks: Sequence[Task], hints: Sequence[str] = ()
    ) -> tuple[list[Group], list[list[float]]]:
        """Play each task as one more group, and pay it.

        Args:
            hints: what the player is told after the opening, one text for each task; none by
                default. The tokens that are learnt are those that were played, hint included.

        Returns:
            A group for each task, in order, without failed episodes (it may be empty), and the
            returns of their episodes.
        """


class Selection(Plugin):
    """Base of the slot ``training.selection``."""

    refill: int = Field(
        0, ge=0, description="rounds in which other tasks are played in place of dropped groups"
    )

    def model_post_init(self, context: Any) -> None:
        """Raise TypeError if neither hook is there."""
        cls = type(self)
        if cls.__call__ is Selection.__call__ and cls.choose is Selection.choose:
            raise TypeError(f"{cls.__name__} has neither '__call__' nor 'choose'")

    def possible(self, size: int) -> bool:
        """Tell whether a group of so many episodes could be kept, whatever they did."""
        return size > 0

    def __call__(self, group: Group, returns: Sequence[float]) -> Group | None:
        """Return the group, a smaller one made of some of its episodes, or None to drop it.

        Args:
            returns: weighted sum of all rewards, per episode.
        """
        raise NotImplementedError

    async def choose(
        self, groups: Sequence[Group], returns: Sequence[Sequence[float]], replay: Replay
    ) -> Sequence[Group]:
        """Choose among all groups of a round; by default each is judged by itself.

        With `refill` 0 everywhere a step has one round, and these are all of its groups.

        Args:
            returns: weighted sum of all rewards, per group and episode.
            replay: has tasks played again; what it gives may be among the answer.

        Returns:
            What is learnt from: groups made of the given episodes and of those played again, none
            of them twice.
        """
        judged = (self(group, values) for group, values in zip(groups, returns, strict=True))
        return [group for group in judged if group is not None]


SELECTIONS: Slot[Selection] = Slot("turnrl.training.selection", Selection, "Selection")
