"""Estimators that keep rewards apart, or look at states and tags: cases worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from turnrl.agents.episode import Episode, Group, Turn
from turnrl.envs.task import Task
from turnrl.foundation.errors import UserError
from turnrl.training.batch import TokenBatch
from turnrl.training.credit.base import CREDITS
from turnrl.training.reward_table import RewardTable

from .builders import batch_of, episodic, table
from .test_credit import close

HALF = math.sqrt(0.5)


def named(
    rewards: dict[str, list[list[float]]], groups: list[int], **weights: float
) -> tuple[TokenBatch, RewardTable]:
    """One token per turn; every reward weighs 1 unless `weights` says otherwise."""
    first = next(iter(rewards.values()))
    batch = batch_of([list(range(len(turns))) for turns in first], groups=groups)
    return batch, table(rewards, weights)


def credit(name: str, data: tuple[TokenBatch, RewardTable], **config: Any) -> Tensor:
    return CREDITS.build({"name": name, "eps": 0.0} | config)(data[1], data[0]).values


def test_gdpo_tells_combinations_with_equal_sums_apart() -> None:
    a, b = [[0.0], [1.0], [0.0], [0.0]], [[0.0], [1.0], [0.0], [1.0]]
    data = named({"a": a, "b": b}, [0, 0, 1, 1])
    close(credit("gdpo", data)[:, 0], [-1.095445, 1.095445, -0.547723, 0.547723], 1e-6)
    close(credit("grpo", data)[:, 0], [-HALF, HALF, -HALF, HALF])


def test_gdpo_of_one_reward_is_grpo_and_weights_of_zero_are_nothing() -> None:
    data = named({"a": [[0.0, 2.0], [1.0], [5.0]]}, [0, 0, 0])
    close(credit("gdpo", data, eps=1e-4), credit("grpo", data, eps=1e-4))
    noise = named(
        {"a": [[0.0, 2.0], [1.0], [5.0]], "b": [[9.0, 1.0], [0.0], [3.0]]}, [0, 0, 0], b=0.0
    )
    close(credit("gdpo", noise), credit("grpo", data), 1e-7)


def test_lite_ppo_by_hand() -> None:
    close(
        credit("lite_ppo", episodic([[1.0], [0.0], [1.0], [1.0]], [0, 0, 1, 1]))[:, 0],
        [1, -1, 0, 0],
    )


def test_bnpo_by_hand() -> None:
    wins = [1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0]
    data = episodic([[float(r)] for r in wins], [0] * 4 + [1] * 4 + [2] * 4)
    good, bad = [0.680175, 0.392699, 0.226725], [-0.226725, -0.392699, -0.680175]
    expected = [(good if r else bad)[i // 4] for i, r in enumerate(wins)]
    close(CREDITS.build({"name": "bnpo"})(data[1], data[0]).values[:, 0], expected, 1e-6)


def test_bnpo_of_a_single_group_is_dr_grpo_and_refuses_other_ranges() -> None:
    data = episodic([[1.0], [0.0], [0.0]])
    close(
        CREDITS.build({"name": "bnpo"})(data[1], data[0]).values,
        CREDITS.build({"name": "dr_grpo"})(data[1], data[0]).values,
    )
    scaled = episodic([[10.0], [-10.0], [-10.0]])
    with pytest.raises(UserError, match=r"'r' leaves 0\.0 \.\. 1\.0"):
        CREDITS.build({"name": "bnpo"})(scaled[1], scaled[0])
    ranged = CREDITS.build({"name": "bnpo", "low": -10.0, "high": 10.0})
    plain = CREDITS.build({"name": "dr_grpo"})(data[1], data[0]).values
    close(ranged(scaled[1], scaled[0]).values, plain)


def test_stepwise_weighs_episodes_not_turns() -> None:
    data = episodic([[0.0] * 9 + [10.0]] * 4 + [[0.0] * 50] * 4)
    out = credit("stepwise", data, scale=False)
    assert out[:4, :10].eq(5).all()
    assert out[4:].eq(-5).all()
    out = credit("stepwise", data)
    close(out[0, 0], 5 / math.sqrt(25 * 8 / 7))


def test_stepwise_by_hand() -> None:
    out = credit("stepwise", episodic([[1.0, 3.0], [2.0]]), scale=False, gamma=1.0)
    baseline = ((4 + 3) / 2 + 2) / 2
    close(out, [[4 - baseline, 3 - baseline], [2 - baseline, 0]])


def gigpo_case() -> tuple[TokenBatch, RewardTable]:
    batch, paid = episodic([[0.0, 10.0], [0.0, 0.0, 0.0]])
    return replace(batch, state_ET=torch.tensor([[0, 1, -1], [0, 1, 2]])), paid


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [[9.75, 10, 0], [-9.75, -10, -5]]),
        ({"step_weighted": True}, [[10.75, 11, 0], [-8.75, -9, -4]]),
        ({"omega": 0.0}, [[5, 5, 0], [-5, -5, -5]]),
        ({"norm": "mean_std"}, [[2 * HALF, 2 * HALF, 0], [-2 * HALF, -2 * HALF, -HALF]]),
    ],
)
def test_gigpo_by_hand(config: dict[str, Any], expected: list[list[float]]) -> None:
    close(credit("gigpo", gigpo_case(), **config), expected)


@pytest.mark.parametrize("reason", ["unparsable", "meta_verb"])
def test_gigpo_keeps_the_state_after_a_bad_response(reason: str) -> None:
    """Kitchen and cellar do not become one state because we said the same sentence in both."""

    def walk(room: str) -> Episode:
        bad = Turn(
            [1], False, [2], [-0.1], observation="Bad.", valid_action=False, invalid_reason=reason
        )
        return Episode(
            task, opening=room, turns=[bad, Turn([3], True, [4], [-0.1], observation="Done.")]
        )

    task = Task(env="toy/made-v0", seed=0)
    group = Group(task, [walk(room) for room in ("kitchen", "kitchen", "cellar", "cellar")])
    rewards = {"r": [[0.0, 1.0], [0.0, 0.0], [0.0, 5.0], [0.0, 0.0]]}
    found_ET = credit("gigpo", (TokenBatch.pack([group]), table(rewards)), gamma=1.0)
    # Each turn against the four of its room: two before the bad response and two after it.
    close(found_ET, [[x, x] for x in (1 - 1.5 + 0.5, -1.5 - 0.5, 5 - 1.5 + 2.5, -1.5 - 2.5)])


def test_gigpo_keeps_the_states_of_different_tasks_apart() -> None:
    batch, paid = episodic([[1.0], [0.0], [5.0], [5.0]], [0, 0, 1, 1])
    batch = replace(batch, state_ET=torch.zeros(4, 1, dtype=torch.long))
    close(credit("gigpo", (batch, paid))[:, 0], [1, -1, 0, 0])


def igpo_case() -> tuple[TokenBatch, RewardTable]:
    gains = [[0.2, 0.4, 9.0], [0.0, -9.0]]  # what stands on the answering turn does not count
    return named({"information_gain": gains, "outcome": [[0.0, 0.0, 1.0], [0.0, 0.0]]}, [0, 0])


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [
        (1.0, [[1 + HALF, 1 + HALF, HALF], [-1 - HALF, -HALF, 0]]),
        (0.5, [[0.5 + HALF / 4, 1 + HALF / 2, HALF], [-1 - HALF / 2, -HALF, 0]]),
    ],
)
def test_igpo_by_hand(gamma: float, expected: list[list[float]]) -> None:
    close(credit("igpo", igpo_case(), gamma=gamma), expected)


def test_igpo_joint_and_weights() -> None:
    batch, paid = igpo_case()
    values = torch.tensor([0.2, 0.4, 1.0, 0.0, 0.0], dtype=torch.float64)
    z = ((values - values.mean()) / values.std()).tolist()
    close(credit("igpo", (batch, paid), norm="joint", gamma=0.0), [z[:3], [*z[3:], 0]])
    light = named(
        {
            "information_gain": [[0.2, 0.4, 0.0], [0.0, 0.0]],
            "outcome": [[0.0, 0.0, 1.0], [0.0, 0.0]],
        },
        [0, 0],
        information_gain=0.1,
    )
    close(credit("igpo", light, gamma=0.0), [[0, 0.1, HALF], [-0.1, -HALF, 0]])


def test_tag_group_by_hand() -> None:
    rewards = {"meta_reasoning": [[1.0, 1.0], [0.0, 1.0]], "outcome": [[0.0, 1.0], [0.0, 0.0]]}
    batch, paid = named(rewards, [0, 0])
    batch = replace(batch, tag_ET=torch.tensor([[0, 1], [0, 1]]))
    close(credit("tag_group", (batch, paid)), [[HALF, HALF / 2], [-HALF, -HALF / 2]])
    batch = replace(batch, tag_ET=torch.tensor([[0, -1], [0, 1]]))
    paid.values_KET[0, 0, 1] = -0.1
    close(credit("tag_group", (batch, paid)), [[HALF, HALF / 2 - 0.1], [-HALF, -HALF / 2]])


@pytest.mark.parametrize("name", ["igpo", "tag_group"])
def test_a_missing_reward_is_named(name: str) -> None:
    with pytest.raises(UserError, match=r"no reward is called '.*'; the recipe has r"):
        credit(name, episodic([[1.0], [0.0]]))


def test_states_and_tags_come_from_what_was_played() -> None:
    def turn(observation: str, tag: str | None) -> Turn:
        return Turn([1], True, [2], [-1.0], observation=observation, tag=tag)

    task = Task(env="toy/made-v0", seed=0)
    first = Episode(
        task,
        opening="hall",
        turns=[turn("cellar", "planning"), turn("hall", None), turn("end", "explore")],
    )
    second = Episode(task, opening="hall", turns=[turn("cellar", "explore")])
    for episode in (first, second):
        episode.turns[0].extends = False
    batch = TokenBatch.pack([Group(task, [first, second])])
    assert batch.state_ET is not None
    assert batch.state_ET.tolist() == [[0, 1, 0], [0, -1, -1]]
    assert batch.tag_ET is not None
    assert batch.tag_ET.tolist() == [[0, -1, 1], [1, -1, -1]]
