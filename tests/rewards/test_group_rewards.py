"""Rewards from comparisons: within the group, and within the episode (marginal_gain)."""

from __future__ import annotations

import asyncio
import json
import math
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnrl.agents.episode import Episode, Group, StopReason, Turn
from turnrl.envs.task import Task
from turnrl.foundation.errors import UserError
from turnrl.rewards.base import REWARDS, TurnReward
from turnrl.rewards.winrate import win_rates

TASK = Task(env="toy/made-v0", seed=3)
NAN = math.nan


def turn(tokens: int = 1, **fields: Any) -> Turn:
    return Turn(
        prompt_ids=[1], extends=False, response_ids=[2] * tokens, logprobs=[-0.1] * tokens, **fields
    )


def episode(*turns: Turn, success: bool = False, opening: str = "") -> Episode:
    stop = StopReason.WON if success else StopReason.LOST
    return Episode(TASK, opening=opening, turns=list(turns), stop=stop, success=success)


@cache
def built(config: str) -> TurnReward:
    """A name's look-up reads every package's metadata: once per configuration, not per example."""
    return REWARDS.build(json.loads(config))


def rewards(name: str, *episodes: Episode, **fields: Any) -> list[list[float]]:
    reward = built(json.dumps({"name": name, **fields}))
    return asyncio.run(reward(Group(TASK, list(episodes)), None))


# -- length_penalty --------------------------------------------------------------------------------


def test_length_penalty_in_numbers() -> None:
    """Tokens are those of all turns, paid on the last one."""
    group = [
        episode(turn(60), turn(40), success=True),
        episode(turn(200), success=True),
        episode(turn(100), turn(100), turn(100)),
    ]
    assert rewards("length_penalty", *group) == [[0, 0.5], [0], [0, 0, -0.5]]
    assert rewards("length_penalty", episode(turn(100)), *group[1:]) == [[0], [0], [0, 0, -0.5]]


def test_length_penalty_in_turns() -> None:
    short, middle, long = (
        episode(*(turn(9 - n) for _ in range(n)), success=n < 5) for n in (1, 2, 5)
    )
    rows = rewards("length_penalty", short, middle, long, unit="turns")
    assert rows == [[0.5], [0, 0.25], [0, 0, 0, 0, -0.5]]


def test_length_penalty_without_a_difference() -> None:
    assert rewards("length_penalty", episode(turn(5), success=True)) == [[0]]
    assert rewards("length_penalty", episode(turn(5)), episode(turn(2), turn(3), success=True)) == [
        [0],
        [0, 0],
    ]
    assert rewards("length_penalty", episode(), episode()) == [[], []]
    assert rewards("length_penalty") == []


def test_an_episode_without_turns_has_no_length() -> None:
    group = [episode(turn(10), success=True), episode(turn(20), success=True)]
    assert rewards("length_penalty", *group, episode()) == [[0.5], [-0.5], []]


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=2, max_size=8))
def test_length_penalty_never_pays_a_failure_nor_a_longer_success(
    made: list[tuple[int, bool]],
) -> None:
    values = [
        row[-1]
        for row in rewards("length_penalty", *(episode(turn(n), success=won) for n, won in made))
    ]
    for (length, won), value in zip(made, values, strict=True):
        assert -0.5 <= value <= (0.5 if won else 0.0)
        for (other, also), less in zip(made, values, strict=True):
            assert won != also or length > other or value >= less


# -- marginal_gain ---------------------------------------------------------------------------------


def visits(*names: str, opening: str = "start") -> Episode:
    return episode(*(turn(observation=name, action="go") for name in names), opening=opening)


def test_coverage_in_numbers() -> None:
    assert rewards("marginal_gain", visits("a", "b", "a", "c"), visits("a"), episode()) == [
        [1, 1, 0, 1],
        [1],
        [],
    ]


def test_the_opening_was_met() -> None:
    assert rewards("marginal_gain", visits("b", "a", "c", opening="a")) == [[1, 0, 1]]


def test_gains_of_actions() -> None:
    made = episode(
        *(turn(action=action, observation="same") for action in ("look", "north", "look", "south"))
    )
    assert rewards("marginal_gain", made, what="action") == [[1, 1, 0, 1]]


def test_gains_of_milestones() -> None:
    """The world reports all reached so far, an unparsable turn none: nothing is paid again."""
    reports = [["key"], [], ["key", "door", "lamp"], ["key", "door", "lamp"]]
    made = episode(*(turn(milestones=list(names)) for names in reports))
    assert rewards("marginal_gain", made, what="milestones") == [[1, 0, 2, 0]]


@pytest.mark.parametrize("what", ["observation", "action"])
def test_mistakes_gain_nothing(what: str) -> None:
    """Neither the parser's words nor an endless supply of new errors count as met."""
    refused = [
        turn(
            action=f"xyzzy {n}",
            observation=f"No verb {n}.",
            valid_action=False,
            invalid_reason="rejected",
        )
        for n in range(3)
    ]
    unparsable = turn(
        observation="Invalid answer.", valid_action=False, invalid_reason="unparsable"
    )
    said = turn(action="xyzzy 0", observation="No verb 0.")
    assert rewards("marginal_gain", episode(*refused, unparsable, said), what=what) == [
        [0, 0, 0, 0, 1]
    ]


def test_marginal_gain_knows_three_things() -> None:
    with pytest.raises(UserError, match="what"):
        REWARDS.build({"name": "marginal_gain", "what": "tokens"})


names = st.lists(st.sampled_from("abcdef"), max_size=12)


@given(names, names, st.sampled_from("abcdef"))
def test_gains_do_not_grow_with_the_set(first: list[str], more: list[str], name: str) -> None:
    """F(S + x) - F(S) >= F(T + x) - F(T) for S within T."""
    small, large = rewards("marginal_gain", visits(*first, name), visits(*first, *more, name))
    assert small[-1] >= large[-1]


@given(names, names, st.booleans())
def test_a_stretched_episode_gains_nothing(first: list[str], more: list[str], same: bool) -> None:
    """The total is the number of distinct states beyond the opening, however many turns."""
    again = [name for name in more if name in first] if same else more
    short, long = rewards(
        "marginal_gain", visits(*first, opening="a"), visits(*first, *again, opening="a")
    )
    assert sum(short) == len(set(first) - {"a"})
    assert sum(long) == len({*first, *again} - {"a"})
    assert long[: len(first)] == short
    assert not same or sum(long) == sum(short)


# -- winrate ---------------------------------------------------------------------------------------


def scored(*scores: float) -> list[Episode]:
    """Episodes of two turns whose environment rewards sum to the scores."""
    return [episode(turn(env_reward=score - 1), turn(env_reward=1.0)) for score in scores]


def by_score(*scores: float) -> list[float]:
    rows = rewards("winrate", *scored(*scores), by={"name": "environment", "weight": -5.0})
    assert all(row[0] == 0 for row in rows)
    return [row[-1] for row in rows]


def test_winrate_in_numbers() -> None:
    assert by_score(3, 1, 2) == [1, 0, 0.5]
    assert by_score(1, 1, 0) == [0.75, 0.75, 0]


def test_sums_that_differ_by_rounding_are_ties() -> None:
    tenths = [turn(env_reward=0.1) for _ in range(10)]
    for group in (
        [episode(*tenths), episode(turn(env_reward=1.0))],
        [episode(turn(env_reward=1.0)), episode(*tenths)],
    ):
        assert [row[-1] for row in rewards("winrate", *group, by={"name": "environment"})] == [
            0.5,
            0.5,
        ]


def test_winrate_by_outcome() -> None:
    won, lost = episode(turn(), turn(), success=True), episode(turn())
    assert rewards("winrate", won, lost, lost, lost) == [[0, 1], [1 / 3], [1 / 3], [1 / 3]]


def test_winrate_of_one_and_of_none() -> None:
    assert by_score(7) == [0.5]
    assert rewards("winrate", episode()) == [[]]
    assert rewards("winrate") == []


def test_winrate_leaves_out_who_cannot_be_compared() -> None:
    values = by_score(3, NAN, 1)
    assert values == pytest.approx([1, NAN, 0], nan_ok=True)
    assert rewards("winrate", episode(turn(), success=True), episode(), episode(turn())) == [
        [1],
        [],
        [0],
    ]
    assert by_score(NAN, 2)[1] == 0.5


def test_a_cycle_of_preferences_is_a_draw() -> None:
    beats = {("rock", "scissors"), ("scissors", "paper"), ("paper", "rock")}
    assert win_rates(["rock", "paper", "scissors"], lambda a, b: float((a, b) in beats)) == [
        0.5,
        0.5,
        0.5,
    ]
    assert win_rates(["a", "b"], lambda a, b: 0.8) == pytest.approx([0.8, 0.2])


finite = st.integers(-4, 4).map(lambda n: n / 4)
group_scores = st.lists(
    st.one_of(finite, st.sampled_from([math.inf, -math.inf])), min_size=1, max_size=8
)


@given(group_scores)
def test_the_mean_of_a_group_is_a_half(scores: list[float]) -> None:
    values = by_score(*scores)
    assert sum(values) / len(values) == pytest.approx(0.5)
    assert all(0 <= value <= 1 for value in values)


@given(group_scores)
def test_winrate_is_antisymmetric(scores: list[float]) -> None:
    """Turning every preference round turns every rate round, and a pair shares 1."""
    assert by_score(*(-score for score in scores)) == pytest.approx(
        [1 - value for value in by_score(*scores)]
    )
    assert sum(by_score(scores[0], scores[-1])) == 1


@given(st.lists(finite, min_size=1, max_size=8), st.floats(0.5, 8), st.floats(-3, 3))
def test_only_the_order_counts(scores: list[float], scale: float, shift: float) -> None:
    assert by_score(*(scale * score + shift for score in scores)) == by_score(*scores)
