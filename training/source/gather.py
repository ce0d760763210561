"""Gathering: the groups of one step, over as many rounds of playing as filters ask for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ...agents.episode import Group
from ...envs import Task
from ..boundaries import chosen
from ..reward_table import RewardTable
from ..selection.base import Selection

Again = Callable[
    [Sequence[Task], Sequence[str]], Awaitable[tuple[Sequence[Group], dict[str, float]]]
]
"""Plays tasks once more, with a hint for each or none, and pays them: a group for each, and
metrics.
"""


@dataclass(slots=True)
class Gathering:
    """What filters leave of the groups of a step; other tasks are played in place of what they
    drop::

        gathering = Gathering(selection, weights, wanted=8, again=again)
        while gathering.missing:
            await gathering.take(*play(gathering.missing))
    """

    selection: Sequence[Selection]
    """Filters, applied one after the other; the largest `refill` among them is the number of extra
    rounds.
    """
    weights: Mapping[str, float]
    """Of the named rewards, for the returns that filters see."""
    wanted: int
    again: Again
    groups: list[Group] = field(default_factory=list)
    """What is left, to learn from."""
    rounds: list[dict[str, float]] = field(default_factory=list)
    replays: list[dict[str, float]] = field(default_factory=list)
    """What was measured whenever a filter had tasks played again."""
    played: int = 0
    replayed: int = 0
    measured: int = 0
    """Groups that were played and rewarded, and in which something was said, before any was
    filtered out.
    """

    @property
    def missing(self) -> int:
        """Count the groups that are still to be played; 0 if no round is left."""
        rounds = 1 + max((each.refill for each in self.selection), default=0)
        return max(self.wanted - len(self.groups), 0) if len(self.rounds) < rounds else 0

    async def take(self, groups: Sequence[Group], metrics: dict[str, float]) -> None:
        """Take in a round: `missing` groups were played, and these were measured."""
        self.played += self.missing
        self.rounds.append(metrics)
        left = [group for group in groups if _spoken(group)]
        self.measured += len(left)
        for each in self.selection:
            left = await chosen(each, left, self._returns(left), self._replay)
        self.groups += [group for group in left if _spoken(group)]

    @property
    def metrics(self) -> dict[str, float]:
        """Return the metrics of all that was played.

        Those of what was played again are by themselves, under ``replay/``.
        """
        found = dict(merged(self.rounds))
        if self.selection:
            kept, played = float(len(self.groups)), float(self.played)
            found |= {"selection/kept": kept, "selection/played": played}
        if self.replays:
            found["selection/replayed"] = float(self.replayed)
            found |= {f"replay/{name}": value for name, value in merged(self.replays).items()}
        return found

    def _returns(self, groups: Sequence[Group]) -> list[list[float]]:
        return [RewardTable.of([group], self.weights).total_E.tolist() for group in groups]

    async def _replay(
        self, tasks: Sequence[Task], hints: Sequence[str] = ()
    ) -> tuple[list[Group], list[list[float]]]:
        if hints and len(hints) != len(tasks):
            raise ValueError(f"{len(hints)} hints for {len(tasks)} tasks")
        if not tasks:
            return [], []
        groups, metrics = await self.again(tasks, hints)
        self.replays.append(metrics)
        self.replayed += len(tasks)
        return list(groups), self._returns(groups)


def _spoken(group: Group) -> bool:
    """Tell whether the player said anything in it."""
    return any(episode.response_tokens for episode in group)


SUMMED = ("episodes", "retried", "stop/", "lost/", "tokens/", "seconds/")


def merged(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Merge metrics of several rounds of play into one.

    Counts add up, rates weigh by episodes.
    """
    if len(rounds) == 1:
        return rounds[0]
    names = list(dict.fromkeys(name for each in rounds for name in each))
    out = {}
    for name in names:
        if name.startswith(SUMMED):
            out[name] = sum(each.get(name, 0.0) for each in rounds)
            continue
        # A round in which nothing was played to its end has no rates.
        known = [(each[name], each["episodes"]) for each in rounds if name in each]
        if weight := sum(count for _, count in known):
            out[name] = sum(value * count for value, count in known) / weight
    return out
