"""Curricula: what they draw and remember, and that a resume goes on as if nothing happened."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from turnrl.agents.episode import Episode, Group, StopReason
from turnrl.envs.task import Task
from turnrl.training.curriculum.base import CURRICULA, Curriculum
from turnrl.training.curriculum.prioritized import Prioritized

TASKS = [Task(env="toy/made-v0", seed=seed) for seed in range(6)]


def played(task: Task, *wins: bool) -> Group:
    return Group(
        task,
        [
            Episode(task, stop=StopReason.WON if won else StopReason.LOST, success=won)
            for won in wins
        ],
    )


def seeds(tasks: list[Task]) -> list[int]:
    return [task.seed for task in tasks]


@pytest.mark.parametrize("name", ["uniform", "prioritized", "staged", "horizon"])
def test_draws_are_seeded_and_a_first_pass_has_every_task(name: str) -> None:
    one, two = CURRICULA.build({"name": name}), CURRICULA.build({"name": name})
    for drawn in (0, 6, 12):
        assert one.sample(TASKS, 6, drawn, 3) == two.sample(TASKS, 6, drawn, 3)
    assert sorted(seeds(one.sample(TASKS, 6, 0, 3))) == list(range(6))
    assert len(one.sample(TASKS, 14, 0, 3)) == 14


def test_uniform_passes_do_not_depend_on_how_they_are_cut() -> None:
    uniform = CURRICULA.build({"name": "uniform"})
    whole = uniform.sample(TASKS, 12, 0, 1)
    assert [uniform.sample(TASKS, 1, drawn, 1)[0] for drawn in range(12)] == whole
    assert uniform.sample(TASKS, 5, 0, 1) + uniform.sample(TASKS, 7, 5, 1) == whole


def test_prioritized_by_hand() -> None:
    curriculum = CURRICULA.build({"name": "prioritized", "floor": 0.1})
    assert isinstance(curriculum, Prioritized)
    assert curriculum.weights(TASKS[:3]) == [1, 1, 1]
    for task, wins in zip(TASKS, (9, 5, 1), strict=False):
        curriculum.observe([played(task, *([True] * wins + [False] * (10 - wins)))])
    weights = curriculum.weights(TASKS[:3])
    assert [w / sum(weights) for w in weights] == pytest.approx([0.066667, 0.333333, 0.6], abs=1e-6)
    counts = Counter(seeds([curriculum.sample(TASKS[:3], 1, drawn, 0)[0] for drawn in range(3000)]))
    assert counts[0] / 3000 == pytest.approx(0.0667, abs=0.015)
    assert counts[2] / 3000 == pytest.approx(0.6, abs=0.03)


def test_prioritized_draws_differ_within_a_step() -> None:
    curriculum = CURRICULA.build({"name": "prioritized"})
    curriculum.observe([played(TASKS[0], False)] + [played(task, True) for task in TASKS[1:]])
    assert len(set(seeds(curriculum.sample(TASKS, 6, 0, 0)))) == 6


def test_a_task_that_fails_is_broken_and_not_hard() -> None:
    """It must not be drawn more and more while the others are learnt."""
    failed = Group(TASKS[0], [], [StopReason.ENV_ERROR] * 4)
    prioritized = CURRICULA.build({"name": "prioritized", "floor": 0.1})
    assert isinstance(prioritized, Prioritized)
    prioritized.observe([failed, *(played(task, True, False) for task in TASKS[1:])])
    assert prioritized.weights(TASKS[:2]) == [0.1, 0.5]
    prioritized.observe([played(TASKS[0], False)])
    assert prioritized.weights(TASKS[:2]) == [1.0, 0.5]
    staged = CURRICULA.build({"name": "staged", "stages": 6, "replay": 0})
    staged.observe([failed, *(played(task, False) for task in TASKS[1:])])
    assert seeds(staged.sample(TASKS, 1, 6, 0)) == [1]


def measured(curriculum: Curriculum) -> None:
    """One pass in which task number i is solved i times out of six."""
    for task in curriculum.sample(TASKS, 6, 0, 0):
        curriculum.observe([played(task, *([True] * task.seed + [False] * (6 - task.seed)))])


def stage_of(curriculum: Curriculum, drawn: int = 6) -> set[int]:
    return set(seeds(curriculum.sample(TASKS, 2, drawn, 0)))


STAGED: dict[str, Any] = {
    "name": "staged",
    "stages": 3,
    "threshold": 0.7,
    "window": 10,
    "replay": 0.0,
}


def test_staged_plays_from_easy_to_hard_by_measurement() -> None:
    curriculum = CURRICULA.build(STAGED)
    measured(curriculum)
    for expected in ({5, 4}, {3, 2}, {1, 0}, {1, 0}):
        assert stage_of(curriculum) == expected
        for _ in range(5):
            curriculum.observe([played(TASKS[seed], True) for seed in expected])


def test_staged_advances_at_the_threshold_and_not_below() -> None:
    for wins, expected in ((69, {5, 4}), (70, {3, 2})):
        curriculum = CURRICULA.build(STAGED | {"window": 1})
        measured(curriculum)
        assert stage_of(curriculum) == {5, 4}
        curriculum.observe([played(TASKS[5], *([True] * wins + [False] * (100 - wins)))])
        assert stage_of(curriculum) == expected


def test_staged_loses_patience_and_replays() -> None:
    curriculum = CURRICULA.build(STAGED | {"patience": 4, "replay": 0.5})
    measured(curriculum)
    stage_of(curriculum)
    curriculum.observe([played(TASKS[5], False)] * 4)
    drawn = Counter(seeds([t for d in range(6, 406, 2) for t in curriculum.sample(TASKS, 2, d, 0)]))
    assert set(drawn) == {5, 4, 3, 2}
    assert (drawn[5] + drawn[4]) / drawn.total() == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize(
    "config", [STAGED, {"name": "prioritized"}, {"name": "horizon", "tasks": STAGED}], ids=str
)
def test_memory_survives_a_checkpoint(config: dict[str, Any]) -> None:
    one = CURRICULA.build(config)
    measured(one)
    one.sample(TASKS, 2, 6, 0)
    one.observe([played(TASKS[5], True)] * 10)
    two = CURRICULA.build(config)
    two.load_state_dict(one.state_dict())
    for drawn in range(6, 40):
        assert one.sample(TASKS, 2, drawn, 0) == two.sample(TASKS, 2, drawn, 0)
        for curriculum in (one, two):
            curriculum.observe([played(TASKS[drawn % 4], drawn % 3 > 0)])


def test_horizon_grows_to_the_limit() -> None:
    curriculum = CURRICULA.build({"name": "horizon", "first": 2, "share": 0.5})
    assert [curriculum.max_turns(10, step / 10) for step in range(10)] == [
        2,
        3,
        5,
        6,
        8,
        10,
        10,
        10,
        10,
        10,
    ]
    assert CURRICULA.build({"name": "horizon", "first": 20}).max_turns(10, 0.0) == 10
    assert CURRICULA.build({"name": "uniform"}).max_turns(10, 0.0) == 10
