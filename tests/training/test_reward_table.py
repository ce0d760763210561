"""RewardTable: names stay, weights add up, and what could not be measured is told."""

from __future__ import annotations

import random

import pytest
import torch
from turnrl.agents.episode import Group
from turnrl.envs.task import Task
from turnrl.training.reward_table import RewardTable, measured

from .builders import NAN, random_episode


def rewarded(*episodes: list[dict[str, float]]) -> Group:
    """Episodes whose turns have these rewards."""
    rng, played = random.Random(0), []
    for turns in episodes:
        episode = random_episode(rng, len(turns))
        for turn, rewards in zip(episode.turns, turns, strict=True):
            turn.rewards = rewards
        played.append(episode)
    return Group(Task(env="toy/made-v0", seed=0), played)


TWO = rewarded([{"a": 1.0, "b": 0.0}, {"a": 2.0, "b": 1.0}], [{"a": 3.0, "b": -1.0}])


def test_rewards_keep_their_names_and_add_up_by_weight() -> None:
    table = RewardTable.of([TWO], {"a": 2.0, "b": 0.5})
    assert table.names == ("a", "b")
    assert table.values_KET.dtype == torch.float64
    assert table.values_KET.tolist() == [[[1, 2], [3, 0]], [[0, 1], [-1, 0]]]
    assert table.turns_E.tolist() == [2, 1]
    assert table.total_ET.tolist() == [[2, 4.5], [5.5, 0]]
    assert table.total_E.tolist() == [6.5, 5.5]
    assert table.sums_KE.tolist() == [[3, 3], [1, -1]]
    assert RewardTable.of([TWO], {"b": 0.5}).total_E.tolist() == [0.5, -0.5]


def test_a_reward_comes_and_goes() -> None:
    table = RewardTable.of([TWO], {"a": 2.0})
    more = table.with_reward("kl", torch.tensor([[1.0, 1.0], [1.0, 0.0]]), -1.0)
    assert more.names == ("a", "kl")
    assert more.total_E.tolist() == [4.0, 5.0]
    assert more.without("kl").total_E.equal(table.total_E)
    assert more.without("a").total_E.tolist() == [-2.0, -1.0]


@pytest.mark.parametrize("groups", [[], [rewarded([])]])
def test_nothing_was_played(groups: list[Group]) -> None:
    table = RewardTable.of(groups, {"a": 1.0})
    assert table.total_E.tolist() == [0.0] * len(groups)
    assert RewardTable.of(groups, {}).total_E.tolist() == [0.0] * len(groups)


def test_an_episode_with_an_unmeasured_turn_is_left_out_and_counted_once() -> None:
    whole, second, both = [{"a": 1.0, "b": 1.0}], [{"a": 1.0, "b": NAN}], [{"a": NAN, "b": NAN}] * 2
    groups = [rewarded(second, whole), rewarded(both)]
    table = RewardTable.of(groups, {"a": 1.0, "b": 1.0})
    assert table.unmeasured_E == ["b", None, "a"]
    kept, lost = measured(groups, table)
    assert [list(group) for group in kept] == [[groups[0].episodes[1]], []]
    assert lost == {"a": 1, "b": 1}
    assert len(groups[0]) == 2
