"""Reward milestones: shares by kind, paid once; its kinds as levels of a gate."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from turnrl.agents.episode import Episode, Group, Turn
from turnrl.envs.task import Task
from turnrl.foundation.errors import UserError
from turnrl.rewards.base import REWARDS

TASK = Task(env="toy/made-v0", seed=3)


def episode(*reached: list[str]) -> Episode:
    """One turn per list; each list is what the world has reported so far."""
    turns = [
        Turn(prompt_ids=[1], extends=False, response_ids=[2], logprobs=[-0.1], milestones=m)
        for m in reached
    ]
    return Episode(TASK, turns=turns)


def paid(*episodes: Episode, name: str = "milestones", **fields: Any) -> list[list[float]]:
    return asyncio.run(REWARDS.build({"name": name, **fields})(Group(TASK, list(episodes)), None))


def test_shares_by_kind_are_paid_on_the_turn_that_reached_them() -> None:
    path = episode(["a:x"], ["a:x"], ["a:x", "b", "a:y"], ["a:x", "b", "a:y", "ab", "a"])
    assert paid(path, kind="a", total=4) == [[0.25, 0, 0.25, 0.25]]
    assert paid(path, kind="b") == [[0, 0, 1, 0]]
    assert paid(path, kind="c", total=2) == [[0, 0, 0, 0]]
    assert paid(path, total=5) == [[0.2, 0, 0.4, 0.4]]
    assert paid(episode(), path, kind="ab") == [[], [0, 0, 0, 1]]


def test_nothing_is_paid_twice() -> None:
    # An unparsable turn reports nothing; a world may take a milestone back.
    assert paid(episode(["a"], [], ["a"], ["a", "a"])) == [[1, 0, 0, 0]]


def test_too_small_a_total_is_said() -> None:
    with pytest.raises(
        UserError, match=r"task 'toy/made-v0#3' has 2 of the kind 'a' at least: total must not be 1"
    ):
        paid(episode(["a:x", "a:y"]), kind="a")
    with pytest.raises(UserError, match="total"):
        paid(episode(), total=0)


def test_a_gate_of_kinds_puts_every_right_episode_above_every_wrong_one() -> None:
    levels = [
        {"of": {"name": "milestones", "kind": "valid"}, "threshold": 1, "weight": 0.2},
        {"of": {"name": "milestones", "kind": "constraint", "total": 2}, "threshold": 1},
        {"of": {"name": "milestones", "kind": "aspect", "total": 2}, "weight": 0.5},
    ]
    names = ("valid", "constraint:a", "constraint:b", "aspect:a", "aspect:b")
    subsets = [
        set(part) for n in range(len(names) + 1) for part in itertools.combinations(names, n)
    ]
    right = [s for s in subsets if {"valid", "constraint:a", "constraint:b"} <= s]
    wrong = [s for s in subsets if s not in right]

    def least_and_most(sets: list[set[str]]) -> tuple[float, float]:
        sums = [
            sum(row)
            for row in paid(*(episode([], sorted(s)) for s in sets), name="gate", levels=levels)
        ]
        return min(sums), max(sums)

    assert least_and_most(right) == pytest.approx((1.2, 1.7))
    assert least_and_most(wrong) == pytest.approx((0.0, 0.7))
