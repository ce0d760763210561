"""gather: the groups of one step. Tasks are played, rewarded and filtered, and other tasks replace
what was dropped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from ...agents.episode import Group
from ..boundaries import selected
from ..reward_table import RewardTable
from ..selection.base import Selection

Play = Callable[[int, int], Awaitable[tuple[list[Group], dict[str, float]]]]
"""(how many tasks, groups played before in this step) -> rewarded groups without failed episodes,
and metrics.
"""


async def gather(
    play: Play, selection: Sequence[Selection], wanted: int, weights: dict[str, float]
) -> tuple[list[Group], dict[str, float]]:
    """At most `wanted` groups to learn from, and metrics of all that was played.

    Args:
        selection: filters, applied one after the other; the largest `refill` among them is the
            number of extra rounds.
        weights: of the named rewards, for the returns that filters see.
    """
    kept: list[Group] = []
    rounds: list[dict[str, float]] = []
    played = 0
    for _ in range(1 + max((each.refill for each in selection), default=0)):
        groups, metrics = await play(wanted - len(kept), played)
        rounds.append(metrics)
        played += wanted - len(kept)
        kept += [
            chosen for group in groups if (chosen := _select(group, selection, weights)) is not None
        ]
        if len(kept) >= wanted:
            break
    metrics = merged(rounds)
    if selection:
        metrics |= {"selection/kept": float(len(kept)), "selection/played": float(played)}
    return kept, metrics


def _select(
    group: Group, selection: Sequence[Selection], weights: dict[str, float]
) -> Group | None:
    chosen: Group | None = group
    for each in selection:
        if chosen is None or not len(chosen):
            return None
        chosen = selected(each, chosen, RewardTable.of([chosen], weights).total_E.tolist())
    return chosen


SUMMED = ("episodes", "retried", "stop/", "lost/", "tokens/", "seconds/")


def merged(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Metrics of several rounds of play as if they were one: counts add up, rates weigh by
    episodes.
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
