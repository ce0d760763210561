"""TextEnv: what the base class promises for every world."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

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
from turnrl.envs.task import split_of

from ..toy_world import recipe as lights

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

    def _tasks(self, split: Split) -> Sequence[Task]:
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


class BuiltEnv(SizedEnv):
    """Takes a parameter in its constructor, which its Tasks would not carry."""

    def __init__(self, colour: str = "red", **options: Any) -> None:
        super().__init__(**options)


class SeedsEnv(SizedEnv):
    """Every seed is a task, of at most 9 steps."""

    class Settings(SizedEnv.Settings):
        at_most: Literal[5, 9] = Field(9, description="steps to go, at most")

    sizes = {"train": 40, "valid": 3, "test": 2}  # noqa: RUF012

    def _tasks(self, split: Split) -> Sequence[Task]:
        return TextEnv._tasks(self, split)


def _sized_recipe() -> TextEnv:
    recipe = turnrl.Recipe.parse(lights(env={"id": "toy/sized-v0", "sise": 5}))
    return turnrl.make(recipe.env_id, **recipe.env_params)


@pytest.mark.parametrize(
    "call",
    [
        lambda: turnrl.make("toy/sized-v0", sise=5),
        lambda: gymnasium.make("toy/sized-v0", sise=5),
        lambda: turnrl.make("turnrl/mixed-v0", parts=[{"id": "toy/sized-v0", "sise": 5}]),
        lambda: turnrl.make_for(Task(env="toy/sized-v0", params={"sise": 5}, seed=0)),
        lambda: turnrl.evaluate("toy/sized-v0", "expert", params={"sise": 5}, progress=False),
        _sized_recipe,
    ],
)
def test_a_misspelt_parameter_is_told_with_the_nearest(call: Any) -> None:
    turnrl.register("toy/sized-v0", SizedEnv)
    with pytest.raises(UserError, match="toy/sized-v0: unknown key 'sise'; did you mean 'size'"):
        call()


def test_a_parameter_is_of_its_type_and_within_its_bounds() -> None:
    turnrl.register("toy/sized-v0", SizedEnv)
    for wrong in ("5", 5.5, True, None, 0, 10, [5]):
        with pytest.raises(UserError, match="toy/sized-v0: size: Input should be"):
            turnrl.make("toy/sized-v0", size=wrong)
    with pytest.raises(UserError, match=r"task 'toy/sized-v0\?size=10#0': size: Input"):
        turnrl.make("toy/sized-v0").reset(
            options={"task": Task(env="toy/sized-v0", params={"size": 10}, seed=0)}
        )


def test_what_no_settings_declare_is_no_parameter() -> None:
    turnrl.register("toy/built-v0", BuiltEnv)
    with pytest.raises(UserError, match="'colour' is a parameter of its constructor"):
        turnrl.make("toy/built-v0", colour="blue")
    turnrl.register("toy/plain-v0", PlainEnv)
    with pytest.raises(UserError, match="unknown key 'flors': this world takes no parameters"):
        turnrl.make("toy/plain-v0", flors=5)
    with pytest.raises(UserError, match=r"must derive from turnrl\.EnvSettings"):
        type("Wrong", (TextEnv,), {"Settings": dict})


def test_an_id_with_parameters_of_its_own_writes_them_into_tasks() -> None:
    turnrl.register("toy/sized_five-v0", SizedEnv, size=5)
    for asked, told in (({}, 5), ({"size": 3}, 3)):
        task = turnrl.make("toy/sized_five-v0", **asked).tasks("train")[0]
        assert task.params == {"size": told}
        assert turnrl.make_for(task).settings == SizedEnv.Settings(size=told)


def test_splits_have_ranges_of_seeds_of_their_own() -> None:
    turnrl.register("toy/seeds-v0", SeedsEnv)
    env = turnrl.make("toy/seeds-v0", at_most=5)
    seeds = {split: [task.seed for task in env.tasks(split)] for split in SPLITS}
    assert seeds["train"] == list(range(40))
    assert (seeds["valid"], seeds["test"]) == (
        [1_000_000, 1_000_001, 1_000_002],
        [2 * 10**6, 2 * 10**6 + 1],
    )
    assert all(split_of(seed) == split for split in SPLITS for seed in seeds[split])
    assert env.tasks("test")[0].params == {"at_most": 5}


def test_a_task_of_another_world_is_refused() -> None:
    turnrl.register("toy/sized-v0", SizedEnv)
    with pytest.raises(UserError, match="'toy/sized-v0#0' is not a toy/corridor-v0 task: play it"):
        make().reset(options={"task": Task(env="toy/sized-v0", seed=0)})


def test_a_function_is_called_only_for_an_extra_that_somebody_asked_for() -> None:
    asked: list[str] = []
    turnrl.register("toy/lazy-v0", LazyEnv)
    for extras in ((), ("progress",), ("admissible_actions", "progress")):
        asked.clear()
        env = turnrl.make("toy/lazy-v0", extras=extras)
        env.asked = asked  # type: ignore[attr-defined]
        info = env.reset(seed=0)[1]
        assert sorted(asked) == sorted(extras)
        assert info["progress"] == (0.5 if "progress" in extras else None)
        assert info["admissible_actions"] == (["go"] if len(extras) == 2 else None)


class PlainEnv(TextEnv):
    """Takes no parameters."""

    sizes = {"train": 3, "valid": 3, "test": 3}  # noqa: RUF012

    def _begin(self, task: Task) -> Outcome:
        return Outcome("Go.")

    def _act(self, action: str) -> Outcome:
        return Outcome("Gone.", ended=True)


class LazyEnv(PlainEnv):
    """Tells its extras through functions, which note that they were called."""

    asked: list[str]

    def _begin(self, task: Task) -> Outcome:
        return Outcome("Go.", admissible=self._listed, progress=self._half)

    def _listed(self) -> list[str]:
        self.asked.append("admissible_actions")
        return ["go"]

    def _half(self) -> float:
        self.asked.append("progress")
        return 0.5


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
