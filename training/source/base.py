"""Source: it gives each step its groups of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from ...agents.episode import Group
from ...envs import Task


@dataclass(frozen=True, slots=True)
class Played:
    """Groups as they were played, without failed episodes."""

    groups: list[Group]
    metrics: dict[str, float]
    """What they were like, and what playing them cost."""
    conversations: ExitStack = field(default_factory=ExitStack)
    """Those that the engine keeps for rewards that score with it, until it is left."""


class Source(Protocol):
    """The players of the groups that are learnt from."""

    drawn: int
    """Tasks that were drawn so far in the stage."""

    async def next(self, step: int, wanted: int) -> Played:
        """Play `wanted` more groups for a step."""

    async def play(self, tasks: Sequence[Task], hints: Sequence[str] = ()) -> Played:
        """Play these tasks, a group each, for the step of the last call of `next`.

        Args:
            hints: what the player is told after the opening of each, or nothing.
        """
