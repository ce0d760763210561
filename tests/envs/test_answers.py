"""Answers of worlds: numpy's numbers are numbers, lone surrogates go, the rest is named."""

from __future__ import annotations

import asyncio
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from turnrl.agents.agent import Agent, Player
from turnrl.agents.baselines import ExpertAgent
from turnrl.agents.episode import Episode, StopReason, Turn
from turnrl.agents.play import EpisodeJob, play_many
from turnrl.envs import Task, answers, make
from turnrl.envs.pool.pool import EnvPool
from turnrl.envs.registry import import_worlds

from ..logged import listening

ODD = str(Path(__file__).with_name("odd_worlds.py"))
import_worlds(ODD)
BACKENDS = pytest.mark.parametrize("backend", ["thread", "process"])


@given(st.text(st.characters(codec=None)))
def test_any_text_becomes_one_that_can_be_written(value: str) -> None:
    found = answers.text(value, "it")
    found.encode("utf-8")
    assert len(found) == len(value)
    assert found == value or any("\ud800" <= c <= "\udfff" for c in value)
    same = np.str_(value)  # without the zeros at the end, if there are any
    assert answers.text(same, "it") == found.rstrip("\0")
    assert type(answers.text(same, "it")) is str


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_numbers_of_every_library_are_floats(value: float) -> None:
    kinds = (
        value,
        np.float32(value),
        np.float64(value),
        np.array(value),
        torch.tensor(value, dtype=torch.float64),
    )
    assert [answers.number(kind, "it") for kind in kinds] == [value] * len(kinds)
    assert all(
        type(answers.number(kind, "it")) is float
        for kind in (*kinds, int(value), np.int64(3), True, np.True_)
    )


@pytest.mark.parametrize(
    "value", [None, "1", b"1", [1.0], np.ones(2), np.ones(1), 1j, Fraction(1, 2), object()]
)
def test_what_is_no_number_is_named(value: Any) -> None:
    with pytest.raises(TypeError, match=r"the reward is .*, not a number"):
        answers.number(value, "the reward")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_a_number_is_finite(value: Any) -> None:
    with pytest.raises(ValueError, match=r"the reward is .*, not a finite number"):
        answers.number(value, "the reward")


def test_flags_and_lists() -> None:
    assert [answers.flag(value, "it") for value in (True, np.True_, 1, np.int64(0), False)] == [
        True,
        True,
        True,
        False,
        False,
    ]
    for value in (None, "yes", 2, 0.5, [True]):
        with pytest.raises(TypeError, match="not True or False"):
            answers.flag(value, "it")
    assert answers.names(("a", np.str_("b"), "\ud800"), "it") == ["a", "b", "?"]
    texts: list[Any] = ["go east", None, 7, {"a": 1}, b"a", ["a", None], [b"a"]]
    for text in texts:
        with pytest.raises(TypeError, match=r"not a list of str|an entry of it is"):
            answers.names(text, "it")


def test_a_text_that_no_model_could_read_is_refused() -> None:
    assert answers.text("x" * answers.LONGEST, "it")
    with pytest.raises(ValueError, match=r"it has 1,000,001 characters, more than 1,000,000"):
        answers.text("x" * (answers.LONGEST + 1), "it")


class Waiter(Player):
    async def move(self) -> Turn:
        return Turn([], True, [], [], text="wait", action="wait")


class Waits(Agent):
    def player(self, episode_id: str, seed: int) -> Waiter:
        return Waiter()


def play(
    backend: str, tasks: list[Task], agent: Agent | None = None
) -> tuple[list[Episode], list[str]]:
    """Every task once, in a pool that knows the odd worlds, and what was warned about."""

    async def work() -> list[Episode]:
        options: Any = {
            "backend": backend,
            "workers": 1,
            "imports": [ODD],
            "options": {"extras": ("progress",)},
        }
        async with EnvPool(**options) as pool:
            jobs = [EpisodeJob(task, f"{i}", 0) for i, task in enumerate(tasks)]
            return (await play_many(agent or Waits(), jobs, pool, max_turns=3, retries=0))[0]

    with listening() as said:
        episodes = asyncio.run(asyncio.wait_for(work(), 60))
    return episodes, said


def task(**params: Any) -> Task:
    return Task(env="odd/answers-v0", params=params, seed=0)


WRONG: dict[str, str] = {
    "observation none": "the observation is None, not str",
    "observation bytes": "the observation is bytes, not str",
    "observation number": "the observation is int, not str",
    "observation list": "the observation is list, not str",
    "observation huge": "the observation has 1,000,001 characters",
    "reward none": "the reward is None, not a number",
    "reward text": "the reward is str, not a number",
    "reward array": "the reward is ndarray, not a number",
    "reward nan": "the reward is nan, not a finite number",
    "ended none": "ended is None, not True or False",
    "ended text": "ended is str, not True or False",
    "success none": "success is None, not True or False",
    "valid number": "valid is float, not True or False",
    "score text": "the score is str, not a number",
    "progress inf": "progress is inf, not a finite number",
    "admissible text": "admissible is str, not a list of str",
    "admissible numbers": "an entry of admissible is int, not str",
    "milestones none": "milestones is None, not a list of str",
    "answer bytes": "an entry of answer is bytes, not str",
    "outcome tuple": "_act must return an Outcome, not tuple",
    "outcome none": "_act must return an Outcome, not NoneType",
}
RIGHT = (
    *(
        "observation str_",
        "observation surrogate",
        "reward float32",
        "reward int64",
        "reward bool",
        "reward tensor",
    ),
    *(
        "ended bool_",
        "ended int",
        "success bool_",
        "valid bool_",
        "score float32",
        "progress float64",
    ),
    *(
        "admissible tuple",
        "admissible surrogate",
        "milestones tuple",
        "answer array",
        "nothing odd",
    ),
)


@BACKENDS
@pytest.mark.parametrize("when", ["step", "reset"])
def test_a_wrong_answer_ends_its_own_episode_and_is_named(backend: str, when: str) -> None:
    tasks = [task(how=how, when=when) for how in WRONG] + [task(how="nothing odd")]
    episodes, said = play(backend, tasks)
    for how, episode in zip(WRONG, episodes, strict=False):
        assert episode.stop is StopReason.ENV_ERROR, how
        expected = WRONG[how].replace("_act", "_begin") if when == "reset" else WRONG[how]
        assert expected in (episode.error or "").splitlines()[0]
        json.dumps(episode.to_json())
    assert episodes[-1].stop is StopReason.TURN_LIMIT
    assert any("env_error in odd/answers-v0" in line for line in said)


@BACKENDS
@pytest.mark.parametrize("when", ["step", "reset"])
def test_other_spellings_of_right_answers_are_plain_ones(backend: str, when: str) -> None:
    episodes, said = play(backend, [task(how=how, when=when) for how in RIGHT])
    assert not said
    for how, episode in zip(RIGHT, episodes, strict=True):
        assert not episode.stop.failed, how
        kept = json.loads(json.dumps(episode.to_json()))
        assert Episode.from_json(kept).to_json() == episode.to_json()
        for turn in episode.turns:
            assert (type(turn.observation), type(turn.env_reward)) == (str, float)
            turn.observation.encode("utf-8")


@BACKENDS
@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("instructions none", "instructions is None, not str"),
        ("instructions bytes", "instructions is bytes, not str"),
        ("tools text", "tools is str, not a list of JSON schemas"),
        ("expert number", "the expert's action is int, not str"),
        ("step none", "step returned None, not a tuple of 5"),
        ("step short", "step returned tuple, not a tuple of 5"),
        ("step bytes", "the observation is bytes, not str"),
        ("info none", "the info is None, not a dict"),
        ("info short", "the info lacks the key 'answer'"),
        ("info text", "info['score'] is str, not a number"),
    ],
)
def test_what_a_world_overrides_is_looked_at_too(backend: str, what: str, why: str) -> None:
    agent = ExpertAgent() if what.startswith("expert") else None
    [episode], _ = play(
        backend, [Task(env="odd/overrides-v0", params={"what": what}, seed=0)], agent
    )
    assert episode.stop is StopReason.ENV_ERROR
    assert why in (episode.error or "").splitlines()[0]


@BACKENDS
@pytest.mark.parametrize(
    "what", ["instructions surrogate", "tools surrogate", "info more", "nothing"]
)
def test_overrides_that_keep_the_types_are_played(backend: str, what: str) -> None:
    [episode], said = play(backend, [Task(env="odd/overrides-v0", params={"what": what}, seed=0)])
    assert (episode.stop, said) == (StopReason.TURN_LIMIT, [])


def test_the_same_holds_without_a_pool() -> None:
    env = make("odd/answers-v0", how="outcome tuple")
    env.reset(seed=0)
    with pytest.raises(TypeError, match=r"OddAnswers\._act must return an Outcome, not tuple"):
        env.step("wait")
    env = make("odd/answers-v0", how="reward float32")
    env.reset(seed=0)
    assert env.step("wait")[1] == 0.5
