"""Selection and gather: the filters' examples, and batches refilled or honestly smaller."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from turnrl.agents.episode import Episode, Group, StopReason, Turn
from turnrl.envs.task import Task
from turnrl.foundation.errors import UserError
from turnrl.training.selection.base import SELECTIONS, Selection
from turnrl.training.source.gather import Again, Gathering, merged


def group_of(returns: list[float], lengths: list[int] | None = None, seed: int = 0) -> Group:
    task = Task(env="toy/made-v0", seed=seed)
    episodes = []
    for value, length in zip(returns, lengths or [1] * len(returns), strict=True):
        turn = Turn(
            [1], False, [2] * length, [-1.0] * length, rewards={"r": value / 2, "free": 100.0}
        )
        stop = StopReason.WON if value > 0.5 else StopReason.LOST
        episodes.append(Episode(task, turns=[turn], stop=stop, success=value > 0.5))
    return Group(task, episodes)


def kept(
    config: dict[str, Any], returns: list[float], lengths: list[int] | None = None
) -> list[int] | None:
    group = group_of(returns, lengths)
    chosen = SELECTIONS.build(config)(group, returns)
    return (
        None
        if chosen is None
        else [i for i, episode in enumerate(group) if any(episode is other for other in chosen)]
    )


def test_zero_variance_by_hand() -> None:
    config = {"name": "zero_variance"}
    assert kept(config, [1, 1]) is None
    assert kept(config, [1, 0]) == [0, 1]
    assert kept(config, [0, 0]) is None
    assert kept(config, [0.1 + 0.2, 0.3]) is None
    assert kept(config, [1]) is None


@pytest.mark.parametrize(
    ("wins", "stays"), [(1, False), (2, True), (4, True), (6, True), (7, False), (8, False)]
)
def test_balanced_difficulty_by_hand(wins: int, stays: bool) -> None:
    returns = [1.0] * wins + [0.0] * (8 - wins)
    assert kept({"name": "balanced_difficulty", "high": 0.75}, returns) == (
        list(range(8)) if stays else None
    )


def test_balanced_difficulty_has_inclusive_bounds_and_refuses_swapped_ones() -> None:
    assert kept({"name": "balanced_difficulty"}, [1, 0, 0, 0, 0]) == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match=r"low=0\.9 is above high=0\.8"):
        SELECTIONS.build({"name": "balanced_difficulty", "low": 0.9})


def test_dynamic_contrastive_by_hand() -> None:
    config = {"name": "dynamic_contrastive"}
    returns, lengths = [1, 1, 1, 0, 0, 0.5, 0, 1], [30, 10, 20, 5, 50, 9, 40, 90]
    assert kept(config, returns, lengths) == [1, 2, 4, 6]
    assert kept(config, [1, 1, 1, 1], [1, 2, 3, 4]) is None
    assert kept(config, [0, 1], [5, 5]) == [0, 1]
    assert kept(config, [1]) is None


def play_from(groups: list[Group]) -> tuple[Any, list[int]]:
    asked: list[int] = []
    source = iter(groups)

    def play(count: int) -> tuple[list[Group], dict[str, float]]:
        asked.append(count)
        out = [next(source) for _ in range(count)]
        wins = [episode.success for group in out for episode in group]
        return out, {
            "episodes": float(len(wins)),
            "success": sum(wins) / len(wins),
            "stop/won": float(sum(wins)),
        }

    return play, asked


async def never(tasks: Sequence[Task], hints: Sequence[str]) -> Any:
    raise AssertionError("nobody asked for anything to be played again")


def gathered(play: Any, selection: list[Selection], wanted: int, again: Again = never) -> Gathering:
    gathering = Gathering(selection, {"r": 2.0, "free": 0.0}, wanted, again)

    async def gather() -> None:
        while gathering.missing:
            await gathering.take(*play(gathering.missing))

    asyncio.run(gather())
    return gathering


def run(
    groups: list[Group], selection: list[dict[str, Any]], wanted: int
) -> tuple[list[int], dict[str, float], Any]:
    play, asked = play_from(groups)
    built: list[Selection] = [SELECTIONS.build(config) for config in selection]
    gathering = gathered(play, built, wanted)
    return [group.task.seed for group in gathering.groups], gathering.metrics, asked


MIXED, WON, LOST = [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]


def test_dropped_groups_are_replaced_until_the_batch_has_its_size() -> None:
    groups = [group_of(r, seed=i) for i, r in enumerate([WON, MIXED, LOST, WON, MIXED, MIXED])]
    seeds, metrics, asked = run(groups, [{"name": "zero_variance"}], 3)
    assert seeds == [1, 4, 5]
    assert asked == [3, 2, 1]
    assert metrics == {
        "episodes": 12.0,
        "success": 7 / 12,
        "stop/won": 7.0,
        "selection/kept": 3.0,
        "selection/played": 6.0,
    }


def test_a_batch_that_stays_short_is_smaller_and_says_so() -> None:
    groups = [group_of(r, seed=i) for i, r in enumerate([WON, WON, MIXED, WON])]
    seeds, metrics, asked = run(groups, [{"name": "zero_variance", "refill": 1}], 2)
    assert seeds == [2]
    assert asked == [2, 2]
    assert metrics["selection/kept"] == 1
    seeds, metrics, _ = run(groups, [{"name": "zero_variance", "refill": 0}], 2)
    assert seeds == []


def test_filters_act_one_after_the_other_on_weighted_returns() -> None:
    group = group_of([1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0], [8, 7, 6, 5, 4, 3, 2, 1])
    play, _ = play_from([group])
    built = [SELECTIONS.build({"name": name}) for name in ("zero_variance", "dynamic_contrastive")]
    [chosen] = gathered(play, built, 1).groups
    assert [len(episode.turns[0].response_ids) for episode in chosen] == [7, 5, 4, 2]


def test_without_filters_nothing_is_added() -> None:
    _, metrics, asked = run([group_of(WON), group_of(LOST)], [], 2)
    assert asked == [2]
    assert "selection/kept" not in metrics


def test_merged_metrics_weigh_rates_by_episodes() -> None:
    first = {
        "episodes": 8.0,
        "success": 0.5,
        "tokens": 10.0,
        "tokens/generated": 80.0,
        "lost/env_error": 1.0,
    }
    second = {"episodes": 2.0, "success": 1.0, "tokens": 5.0, "tokens/generated": 10.0}
    assert merged([first, second]) == pytest.approx(
        {"episodes": 10, "success": 0.6, "tokens": 9, "tokens/generated": 90, "lost/env_error": 1}
    )
