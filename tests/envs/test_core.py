"""TextEnv: what the base class promises for every world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest
import turnrl
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from turnrl import EnvSettings, Outcome, Task, TextEnv, TurnInfo, UserError
from turnrl.envs import SPLITS, Split
from turnrl.envs.registry import import_worlds
from turnrl.envs.spaces import UnicodeText

import_worlds(str(Path(__file__).with_name("toy_envs.py")))

ID = "toy/corridor-v0"
WALK = ["go east", "go east", "go east", "take coin"]


def make(**params: Any) -> TextEnv:
    return turnrl.make(ID, **params)


def test_gymnasium_and_turnrl_make_the_same_kind_of_object() -> None:
    ours, theirs = make(length=4), gymnasium.make(ID, length=4)
    assert type(ours) is type(theirs.unwrapped)
    assert ours.id == theirs.unwrapped.id == ID
    for env in (ours, theirs):
        assert env.reset(seed=1)[0] == "You are in a corridor. Cell 0, red walls."
        assert env.step("go east")[0] == "You walk. Cell 1, red walls."


def test_an_unregistered_instance_has_no_id() -> None:
    with pytest.raises(UserError, match="register"):
        type(make())().tasks("train")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: make(extras=("admissible",)),
            "unknown extra 'admissible': known are admissible_actions",
        ),
        (lambda: make().tasks("dev"), "no split 'dev': use train, valid or test"),
        (lambda: turnrl.make("toy/coridor-v0"), "did you mean 'toy/corridor-v0'"),
        (lambda: import_worlds("absent_world.py"), "there is no file"),
        (lambda: make().reset(options={"task": 3}), r"options\['task'\] is no Task"),
        (
            lambda: make().reset(options={"task": {"env": "x"}}),
            r"options\['task'\] is no Task: seed",
        ),
        (lambda: turnrl.make_for("toy/corridor-v0"), "make_for takes a Task, not a str"),  # type: ignore[arg-type]
        (lambda: turnrl.check_env(3), "the id of a world or a callable, not a int"),  # type: ignore[arg-type]
        (lambda: turnrl.make(3), "no environment '3'"),  # type: ignore[arg-type]
        (lambda: turnrl.make(ID, walls={"red"}), "the parameter 'walls' is a set"),
        (lambda: import_worlds("absent_world"), "there is no module 'absent_world'"),
    ],
)
def test_mistakes_get_a_sentence(call: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


def test_the_seed_picks_the_training_task() -> None:
    env = make()
    tasks = env.tasks("train")
    for seed in range(8):
        env.reset(seed=seed)
        assert env.current == tasks[seed % len(tasks)]
    env.reset(seed=3)
    first = [env.reset() and env.current for _ in range(4)]
    env.reset(seed=3)
    assert [env.reset() and env.current for _ in range(4)] == first


def test_a_task_may_come_as_data() -> None:
    env = make()
    task = env.tasks("test")[1]
    env.reset(options={"task": task.model_dump()})
    assert env.current == task == Task.model_validate_json(task.model_dump_json())


def test_info_keys_are_fixed() -> None:
    env = make(extras=("progress",))
    _, info = env.reset(seed=0)
    assert set(info) == set(TurnInfo.__annotations__)
    assert (info["admissible_actions"], info["progress"], info["valid_action"]) == (None, 0.0, True)
    for action in ["nonsense", "quit", *WALK]:
        info = env.step(action)[4]
        assert set(info) == set(TurnInfo.__annotations__)
    assert info["success"]
    assert info["progress"] == 1.0
    assert make().reset(seed=0)[1]["progress"] is None


def test_a_refused_action_costs_a_turn_and_the_world_stands_still() -> None:
    env = make(max_turns=3)
    env.reset(seed=0)
    before = env.step("go east")[4]
    observation, reward, terminated, truncated, info = env.step("go east. take coin")
    assert observation == "Invalid action: write one command at a time."
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert (info["valid_action"], info["invalid_reason"]) == (False, "chained")
    assert info["admissible_actions"] == before["admissible_actions"]
    observation, _, terminated, truncated, info = env.step("go west")
    assert observation == "You walk. Cell 0, grey walls."
    assert (terminated, truncated) == (False, True)


def test_what_the_world_does_not_understand_is_rejected() -> None:
    env = make()
    env.reset(seed=0)
    info = env.step("dance")[4]
    assert (info["valid_action"], info["invalid_reason"]) == (False, "rejected")


def test_the_end_is_latched() -> None:
    env = make()
    env.reset(seed=0)
    ends = [env.step(action)[2:4] for action in WALK]
    assert ends == [(False, False)] * 3 + [(True, False)]
    with pytest.raises(RuntimeError, match="reset"):
        env.step("go east")
    env.reset(seed=0)
    assert env.step("go east")[0] == "You walk. Cell 1, grey walls."


def test_winning_in_the_last_turn_is_not_truncation() -> None:
    env = make(max_turns=4)
    env.reset(seed=0)
    assert [env.step(action)[2:4] for action in WALK][-1] == (True, False)
    shorter = make(max_turns=3)
    shorter.reset(seed=0)
    assert [shorter.step(action)[2:4] for action in WALK[:3]][-1] == (False, True)
    with pytest.raises(RuntimeError):
        shorter.step("take coin")


def test_stepping_needs_a_reset() -> None:
    with pytest.raises(RuntimeError, match="reset"):
        make().step("go east")


def test_a_world_that_raised_needs_a_reset() -> None:
    class Fragile(TextEnv):
        def _tasks(self, split: str) -> list[Task]:
            return [Task(env="toy/fragile-v0", seed=0)]

        def _begin(self, task: Task) -> Outcome:
            return Outcome("ready")

        def _act(self, action: str) -> Outcome:
            raise ValueError(action)

    env = Fragile()
    env.reset(seed=0)
    with pytest.raises(ValueError):
        env.step("break")
    with pytest.raises(RuntimeError, match="reset"):
        env.step("again")


def test_the_caller_may_change_what_it_gets() -> None:
    env = make()
    _, info = env.reset(seed=0)
    assert info["admissible_actions"] is not None
    info["admissible_actions"].clear()
    assert env.step("quit")[4]["admissible_actions"] == ["go east"]


@pytest.mark.parametrize("key", ["max_episode_steps", "disable_env_checker"])
def test_what_gymnasium_would_take_for_itself_is_an_unknown_parameter(key: str) -> None:
    with pytest.raises(UserError, match=f"unknown parameter '{key}'"):
        turnrl.make(ID, **{key: 2})
    assert turnrl.make(ID, max_turns=2).max_turns == 2


class SizedEnv(TextEnv):
    """Ends when it was told to go `size` times."""

    class Settings(EnvSettings):
        size: int = Field(3, ge=1, le=9, description="steps to go")

    settings: Settings

    def _tasks(self, split: Split) -> list[Task]:
        return [self.task(3 * SPLITS.index(split) + number, split) for number in range(3)]

    def _begin(self, task: Task) -> Outcome:
        self.left = self.settings.size
        return Outcome("Go.")

    def _act(self, action: str) -> Outcome:
        self.left -= 1
        return Outcome("Gone.", ended=self.left == 0, success=self.left == 0)

    def expert_action(self) -> str:
        return "go"


def test_a_task_carries_the_parameters_that_its_world_was_made_with() -> None:
    turnrl.register("toy/sized-v0", SizedEnv)
    env = turnrl.make("toy/sized-v0", size=1, max_turns=9)
    [task, *_] = env.tasks("test")
    assert task.params == {"size": 1}
    again = turnrl.make_for(task)
    again.reset(options={"task": task})
    assert again.step("go")[4]["success"]
    assert turnrl.make("toy/sized-v0", size=3).tasks("test")[0].params == {}
    assert (
        turnrl.evaluate("toy/sized-v0", "expert", params={"size": 1}, tasks=3, progress=False).turns
        == 1
    )


def test_vector_environments_carry_text() -> None:
    envs = gymnasium.vector.AsyncVectorEnv([_corridor] * 2, shared_memory=False, context="fork")
    observations, _ = envs.reset(seed=[0, 1])
    assert list(observations) == [
        f"You are in a corridor. Cell 0, {colour} walls." for colour in ("grey", "red")
    ]
    assert envs.step(["go east", "go east"])[0][1] == "You walk. Cell 1, red walls."
    envs.close()


def _corridor() -> gymnasium.Env[Any, Any]:
    return gymnasium.make(ID)


@given(st.text())
def test_unicode_text_holds_any_string(text: str) -> None:
    assert text in UnicodeText()


def test_unicode_text() -> None:
    space = UnicodeText(max_length=8, seed=1)
    assert "x" * 9 not in space
    assert 3 not in space
    assert space.sample() in space
    assert space == UnicodeText(8) != UnicodeText(9)
    assert hash(space) == hash(UnicodeText(8))
    assert not space.is_np_flattenable
    with pytest.raises(ValueError):
        gymnasium.vector.AsyncVectorEnv([_corridor], context="fork")
