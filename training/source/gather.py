"""Gathering: the groups of one step, over as many rounds of playing as filters ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...agents.episode import Group
from ..boundaries import selected
from ..reward_table import RewardTable
from ..selection.base import Selection


@dataclass(slots=True)
class Gathering:
    """What filters leave of the groups of a step; other tasks are played in place of what they
    drop::

        gathering = Gathering(selection, weights, wanted=8)
        while gathering.missing:
            gathering.take(*play(gathering.missing))
    """

    selection: Sequence[Selection]
    """Filters, applied one after the other; the largest `refill` among them is the number of extra
    rounds.
    """
    weights: Mapping[str, float]
    """Of the named rewards, for the returns that filters see."""
    wanted: int
    groups: list[Group] = field(default_factory=list)
    """What is left, to learn from."""
    rounds: list[dict[str, float]] = field(default_factory=list)
    played: int = 0

    @property
    def missing(self) -> int:
        """Count the groups that are still to be played; 0 if no round is left."""
        rounds = 1 + max((each.refill for each in self.selection), default=0)
        return self.wanted - len(self.groups) if len(self.rounds) < rounds else 0

    def take(self, groups: Sequence[Group], metrics: dict[str, float]) -> None:
        """Take in a round: `missing` groups were played, and these were measured."""
        self.played += self.missing
        self.rounds.append(metrics)
        chosen = (_select(group, self.selection, self.weights) for group in groups)
        self.groups += [group for group in chosen if group is not None]

    @property
    def metrics(self) -> dict[str, float]:
        """Return the metrics of all that was played."""
        found = merged(self.rounds)
        if self.selection:
            kept, played = float(len(self.groups)), float(self.played)
            found |= {"selection/kept": kept, "selection/played": played}
        return found


def _select(
    group: Group, selection: Sequence[Selection], weights: Mapping[str, float]
) -> Group | None:
    chosen: Group | None = group
    for each in selection:
        if chosen is None or not len(chosen):
            return None
        chosen = selected(each, chosen, RewardTable.of([chosen], weights).total_E.tolist())
    return chosen


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
