"""turnrl/mixed-v0: shares, delegation to the parts, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import turnrl
from hypothesis import given
from hypothesis import strategies as st
from turnrl.envs import Task, TextEnv
from turnrl.envs.check.check import check_env
from turnrl.envs.mixed import Interleaved
from turnrl.envs.registry import import_worlds
from turnrl.foundation.errors import UserError

TESTS = Path(__file__).parent.parent
WORLDS = (str(TESTS / "toy_world.py"), str(TESTS / "envs" / "toy_envs.py"))
import_worlds(*WORLDS)
ID = "turnrl/mixed-v0"
PARTS = [{"id": "toy/corridor-v0", "weight": 3}, {"id": "toy/lights-v0", "length": 2}]


def mix(**options: object) -> TextEnv:
    return turnrl.make(ID, parts=PARTS, **options)


def test_every_prefix_has_the_shares() -> None:
    tasks = mix().tasks("train")
    names = [task.env for task in tasks]
    for n in range(1, len(names) + 1):
        lights = names[:n].count("toy/lights-v0")
        assert abs(lights - n / 4) <= 1
    assert len({task.id for task in tasks}) == len(tasks)


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0.1, 10)), min_size=1, max_size=4))
def test_a_split_ends_with_the_first_part_that_is_exhausted(parts: list[tuple[int, float]]) -> None:
    sources = [
        [Task(env=f"x/{i}-v0", seed=seed) for seed in range(count)]
        for i, (count, _) in enumerate(parts)
    ]
    tasks = Interleaved(sources, [weight for _, weight in parts])
    taken = Counter(task.env for task in tasks)
    assert any(taken[f"x/{i}-v0"] == count for i, (count, _) in enumerate(parts))
    for i, source in enumerate(sources):
        assert [task for task in tasks if task.env == f"x/{i}-v0"] == source[: taken[f"x/{i}-v0"]]
    total = sum(weight for _, weight in parts)
    assert all(
        abs(taken[f"x/{i}-v0"] - len(tasks) * weight / total) <= len(parts)
        for i, (_, weight) in enumerate(parts)
    )
    assert list(tasks[:5]) == [tasks[i] for i in range(min(5, len(tasks)))]


def test_codes_are_those_of_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mix().codes == ()
    env: Any = mix()
    for part, codes in zip(env.parts, (("A1", "B2"), ("B2", "C3")), strict=True):
        monkeypatch.setattr(type(part), "codes", codes)
    assert env.codes == ("A1", "B2", "C3")


def test_it_passes_the_checker() -> None:
    report = check_env(ID, params={"parts": PARTS}, imports=WORLDS)
    assert {result.status for result in report.results} == {"ok"}, str(report)


def test_it_is_played_by_the_part_that_owns_the_task() -> None:
    env = mix(extras=("admissible_actions", "progress"))
    for task in env.tasks("train")[:8]:
        part = turnrl.make_for(task, extras=("admissible_actions", "progress"))
        assert env.reset(options={"task": task}) == part.reset(options={"task": task})
        assert env.instructions == part.instructions
        done = False
        while not done:
            action = part.expert_action()
            assert action is not None
            assert env.expert_action() == action
            assert env.step("\x00" * 300) == part.step("\x00" * 300)
            mine, theirs = env.step(action), part.step(action)
            assert mine == theirs
            done = mine[2]
        assert mine[4]["success"]


def test_it_knows_what_its_parts_say_and_the_renamings_they_share() -> None:
    env = mix()
    for part in PARTS:
        assert turnrl.make(str(part["id"])).instructions in env.instructions
    assert env.symmetries == ()
    same = turnrl.make(ID, parts=[{"id": "toy/lights-v0", "length": n} for n in (2, 3)])
    assert same.symmetries == turnrl.make("toy/lights-v0").symmetries != ()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "needs the environments that it mixes, e.g. parts="),
        ("toy/lights-v0", "turnrl/mixed-v0: parts: Input should be a valid list"),
        (["toy/lights-v0"], "turnrl/mixed-v0: parts.0: Input should be a valid dictionary"),
        ([{"length": 3}], "turnrl/mixed-v0: parts.0.id: Field required"),
        ([{"id": "toy/lights-v0", "weight": 0}], "0.weight: Input should be greater than 0"),
        ([{"id": "toy/lights-v0", "lenght": 0, "extras": ()}], "bad parameter"),
        ([{"id": "toy/light-v0"}], "no environment 'toy/light-v0'; did you mean"),
        ([{"id": "toy/lights-v0"}, {"id": "toy/lights-v0", "weight": 2}], "listed twice"),
        ([{"id": ID, "parts": PARTS}], "a mix cannot be part of a mix"),
    ],
)
def test_bad_parts_are_said(parts: list[object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        turnrl.make(ID, parts=parts)


def test_a_strange_task_is_said() -> None:
    with pytest.raises(UserError, match="belongs to no part of this mix"):
        mix().reset(options={"task": Task(env="toy/faulty-v0", seed=0)})
    two = turnrl.make(ID, parts=[{"id": "toy/lights-v0", "length": n} for n in (2, 3)])
    with pytest.raises(UserError, match="belongs to no part of this mix"):
        two.reset(options={"task": Task(env="toy/lights-v0", params={"length": 4}, seed=0)})
