"""Rewards: one number per turn, unit prices, success from the world alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from turnrl.agents.episode import Episode, Group, StopReason, Turn
from turnrl.envs.task import Task
from turnrl.foundation.errors import UserError
from turnrl.rewards.base import REWARDS, TurnReward

TASK = Task(env="toy/made-v0", seed=3)


def turn(**fields: Any) -> Turn:
    return Turn(prompt_ids=[1], extends=False, response_ids=[2], logprobs=[-0.1], **fields)


def episode(*turns: Turn, **fields: Any) -> Episode:
    return Episode(TASK, turns=list(turns), **({"stop": StopReason.LOST} | fields))


def build(name: str, **fields: Any) -> TurnReward:
    return REWARDS.build({"name": name, **fields})


def rewards(name: str, *episodes: Episode, **fields: Any) -> list[list[float]]:
    return asyncio.run(build(name, **fields)(Group(TASK, list(episodes)), None))


def test_outcome_is_on_the_last_turn_of_a_success() -> None:
    won = episode(turn(), turn(), turn(), stop=StopReason.WON, success=True)
    rich = episode(turn(env_reward=5.0, score=5.0), turn(progress=1.0))
    assert rewards("outcome", won, rich, episode()) == [[0, 0, 1], [0, 0], []]
    assert rewards("outcome", won, rich, failure=-1.0) == [[0, 0, 1], [0, -1]]


def test_outcome_takes_the_verdict_of_the_world() -> None:
    assert rewards("outcome", episode(turn(), stop=StopReason.TURN_LIMIT, success=True)) == [[1]]
    assert rewards("outcome", episode(turn(), stop=StopReason.WON, success=False)) == [[0]]


def test_environment_is_what_step_returned() -> None:
    lost = episode(turn(env_reward=1.0), turn(), turn(env_reward=-2.5))
    assert rewards("environment", lost, episode()) == [[1, 0, -2.5], []]


def climb(start: float, *potentials: float, stop: StopReason = StopReason.LOST) -> Episode:
    return episode(*(turn(progress=p) for p in potentials), start_progress=start, stop=stop)


def test_progress_adds_up() -> None:
    assert rewards("progress", climb(0.25, 0.5, 0.25, 1.0), episode()) == [[0.25, -0.25, 0.75], []]


def test_progress_as_a_potential() -> None:
    """The discounted sum is minus the first potential, whatever was done."""
    assert rewards("progress", climb(2, 3, 5, 9), invariant=True) == [[1, 2, -5]]
    for potentials in ([0.3, 0.9, 0.1], [0.5], [0.0, 1.0]):
        for stop in (
            StopReason.LOST,
            StopReason.WON,
            StopReason.TURN_LIMIT,
            StopReason.CONTEXT_LIMIT,
        ):
            (values,) = rewards(
                "progress", climb(0.7, *potentials, stop=stop), gamma=0.9, invariant=True
            )
            assert sum(0.9**t * value for t, value in enumerate(values)) == pytest.approx(-0.7)


def test_a_potential_is_kept_only_where_a_curriculum_cut() -> None:
    cut = climb(2, 3, 5, stop=StopReason.CURRICULUM_LIMIT)
    assert rewards("progress", cut, invariant=True) == [[1, 2]]
    assert rewards("progress", climb(2, 3, 5, stop=StopReason.TURN_LIMIT), invariant=True) == [
        [1, -3]
    ]


def test_progress_without_a_potential_is_said() -> None:
    assert build("progress").needs() == {"progress"}
    with pytest.raises(UserError, match=r"toy/made-v0 reported no progress before the first turn"):
        rewards("progress", episode(turn(progress=1.0)))
    with pytest.raises(UserError, match="after turn 2"):
        rewards("progress", episode(turn(progress=0.0), turn(), start_progress=0.0))


def test_a_turn_is_charged_once() -> None:
    tried = episode(
        turn(),
        turn(valid_action=False, invalid_reason="unparsable"),
        turn(valid_action=False, invalid_reason="rejected"),
        turn(valid_action=False, invalid_reason="too_long"),
        turn(valid_action=False),
    )
    assert rewards("format", tried) == [[0, -1, 0, 0, 0]]
    assert rewards("invalid_action", tried) == [[0, 0, -1, -1, -1]]
    assert rewards("step_cost", tried, episode()) == [[-1] * 5, []]


def test_prices() -> None:
    prices = {name: REWARDS.get(name).model_fields["weight"].default for name in REWARDS.names()}
    assert prices["format"] == prices["invalid_action"] == 0.1
    assert prices["step_cost"] == 0.01
    assert prices["outcome"] == prices["environment"] == prices["progress"] == 1.0


@pytest.mark.parametrize(
    "name", ["outcome", "environment", "progress", "format", "invalid_action", "step_cost"]
)
def test_one_number_per_turn(name: str) -> None:
    group = [climb(0.0, *[0.5] * n) for n in (3, 0, 1)]
    assert [len(row) for row in rewards(name, *group)] == [3, 0, 1]
