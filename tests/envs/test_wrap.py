"""wrap: other people's environments keep their meaning, and what is missing is asked for."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest
import turnrl
from turnrl import UserError, wrap
from turnrl.envs.spaces import UnicodeText


class Echo(gymnasium.Env[str, str]):
    """Won by saying the seed; five words are too many."""

    observation_space = action_space = UnicodeText()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.secret, self.said = str(seed), 0
        return "Say it.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.said += 1
        right = action == self.secret
        return f"You said {action}.", float(right), right, self.said == 5, {"right": right}


turnrl.register(
    "wrap/echo-v0",
    wrap(Echo, success=lambda reward, info: info["right"], instructions="Say the seed."),
)
turnrl.register(
    "wrap/lake-v0",
    wrap(
        lambda: gymnasium.make(
            "FrozenLake-v1", is_slippery=False, render_mode="ansi", max_episode_steps=-1
        ),
        text=lambda env, observation: env.render(),
        actions={"left": 0, "down": 1, "right": 2, "up": 3},
        success=lambda reward, info: reward == 1,
        seeds={"train": range(3), "valid": [3], "test": [4, 5]},
    ),
)
turnrl.register(
    "wrap/numbers-v0",
    wrap(
        lambda: gymnasium.make("FrozenLake-v1"),
        actions={"left": 0},
        success=lambda reward, info: False,
    ),
)


def test_texts_are_passed_on_and_the_verdict_is_the_worlds() -> None:
    env = turnrl.make("wrap/echo-v0")
    assert env.instructions == "Say the seed."
    text, info = env.reset(options={"task": env.task(7)})
    assert (text, info["admissible_actions"]) == ("Say it.", None)
    assert env.step("8")[:4] == ("You said 8.", 0.0, False, False)
    text, reward, terminated, truncated, info = env.step("7")
    assert (text, reward, terminated, truncated, info["success"]) == (
        "You said 7.",
        1.0,
        True,
        False,
        True,
    )


def test_a_limit_of_the_inner_environment_loses() -> None:
    env = turnrl.make("wrap/echo-v0")
    env.reset(options={"task": env.task(7)})
    steps = [env.step("no") for _ in range(5)]
    assert [step[2] for step in steps] == [False] * 4 + [True]
    assert not steps[-1][4]["success"]


def test_words_stand_for_actions_and_others_are_told() -> None:
    env = turnrl.make("wrap/lake-v0")
    assert [task.seed for task in env.tasks("test")] == [4, 5]
    text, info = env.reset(options={"task": env.tasks("test")[0]})
    assert "FFFH" in text
    assert info["admissible_actions"] == ["left", "down", "right", "up"]
    text, _, _, _, info = env.step("jump")
    assert text == "Unknown action. Known are: left, down, right, up."
    assert not info["valid_action"]
    for action in ("down", "down", "right", "right", "down"):
        assert not env.step(action)[2]
    _, reward, terminated, _, info = env.step("right")
    assert (reward, terminated, info["success"]) == (1.0, True, True)


def test_falling_in_is_an_end_without_success() -> None:
    env = turnrl.make("wrap/lake-v0")
    env.reset(options={"task": env.tasks("train")[0]})
    env.step("right")
    _, reward, terminated, _, info = env.step("down")
    assert (reward, terminated, info["success"]) == (0.0, True, False)


def test_an_observation_that_is_no_text_is_told() -> None:
    with pytest.raises(
        UserError, match=r"the observation is no text but int: give wrap\(text=...\)"
    ):
        turnrl.make("wrap/numbers-v0").reset(seed=0)
