"""The promises of rewards, filters and curricula."""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Sequence

from ...agents.episode import Group
from ...envs import Task
from ...foundation.checking import Rules, Skip
from ...foundation.errors import PluginError, UserError
from ...foundation.plugins import Need
from ...rewards.base import TurnReward, ask
from ..boundaries import chosen, learnt, memory_of, next_tasks, observe, turn_limit
from ..curriculum.base import Curriculum
from ..reward_table import RewardTable
from ..selection.base import Selection
from .common import untouched
from .samples import WEIGHTS, Sample, sample

SEEDS = range(6)
REWARD: Rules[TurnReward] = Rules()
SELECTION: Rules[Selection] = Rules()
CURRICULUM: Rules[Curriculum] = Rules()


def _paid(reward: TurnReward, seed: int, *, alone: bool = False) -> list[list[list[float]]]:
    if Need.SCORER in reward.needs():
        raise Skip("it needs the agent that played")
    groups = sample(seed, alone=alone).groups

    async def all_of_them() -> list[list[list[float]]]:
        return [await ask(reward, group, None) for group in groups]

    try:
        return untouched(lambda: asyncio.run(all_of_them()), groups)
    except UserError as error:
        if isinstance(error, PluginError):
            raise
        raise Skip(str(error)) from None


@REWARD.rule("answers")
def pays(reward: TurnReward) -> str | None:
    """Check that each turn of each episode is paid a finite number, or NaN where unmeasured."""
    rows = [
        row
        for seed in SEEDS
        for alone in (False, True)
        for group in _paid(reward, seed, alone=alone)
        for row in group
    ]
    values = [value for row in rows for value in row]
    assert not any(map(math.isinf, values)), "a reward is infinite: say NaN for unmeasured"
    missing = sum(any(map(math.isnan, row)) for row in rows)
    return f"{missing} of {len(rows)} episodes not measured" if missing else None


@REWARD.rule("same answer twice", needs=("answers",))
def pays_again(reward: TurnReward) -> None:
    """Check that equal episodes are paid equally."""
    assert str(_paid(reward, 1)) == str(_paid(reward, 1)), "asked again it pays otherwise"


@REWARD.rule("pays by what it remembers", needs=("answers",))
def pays_by_memory(reward: TurnReward) -> None:
    """Check that what it learns after a step is in its memory, so that a resumed run pays alike."""
    groups = sample(0).groups
    untouched(lambda: learnt(reward, groups), groups)
    memory, paid = memory_of(reward), str(_paid(reward, 1))
    learnt(reward, sample(1).groups)
    reward.load_state_dict(memory)
    assert str(_paid(reward, 1)) == paid, "after its memory was restored it pays otherwise"


@SELECTION.rule("answers")
def selects(selection: Selection) -> str | None:
    """Check that some episodes are kept, each once, or of what was played again.

    Equal questions have equal answers.
    """
    replayed = 0
    for seed in SEEDS:
        for alone in (False, True):
            given = sample(seed, alone=alone)
            memory = memory_of(selection)
            kept, count = _kept(selection, given)
            selection.load_state_dict(memory)
            again, _ = _kept(selection, given)
            assert kept == again, "asked again it keeps others"
            replayed += count
    return f"{replayed} tasks played again" if replayed else None


def _kept(selection: Selection, given: Sample) -> tuple[list[list[tuple[str, bool]]], int]:
    """List which episodes are kept of each group that is, and how many tasks were played again.

    An episode goes by its tokens, and by whether it was played again.
    """
    totals, replayed = iter(given.table.total_E.tolist()), 0
    returns = [[next(totals) for _ in group] for group in given.groups]

    async def replay(
        tasks: Sequence[Task], hints: Sequence[str] = ()
    ) -> tuple[list[Group], list[list[float]]]:
        nonlocal replayed
        replayed += len(tasks)
        other = sample(90 + len(tasks))
        groups = [
            Group(task, copy.deepcopy(other.groups[i % 4].episodes)) for i, task in enumerate(tasks)
        ]
        paid = [RewardTable.of([group], WEIGHTS).total_E.tolist() for group in groups]
        return groups, paid

    answer = untouched(
        lambda: asyncio.run(chosen(selection, given.groups, returns, replay)), given.groups
    )
    known = {id(episode) for group in given.groups for episode in group}
    return [
        [(str([turn.response_ids for turn in e.turns]), id(e) in known) for e in group]
        for group in answer
    ], replayed


def _tasks() -> list[Task]:
    return [Task(env="check/made-v0", seed=seed) for seed in range(10)]


@CURRICULUM.rule("answers")
def draws(curriculum: Curriculum) -> None:
    """Check that as many tasks as are asked for are drawn, with a limit of turns in bounds."""
    known = {task.id for task in _tasks()}
    for count, drawn in ((1, 0), (7, 3), (25, 40)):
        chosen = next_tasks(curriculum, _tasks(), count, drawn, 0)
        assert {task.id for task in chosen} <= known, "it chose a task that it was not given"
    for progress in (0.0, 0.5, 1.0):
        turn_limit(curriculum, 8, progress)


@CURRICULUM.rule("draws by seed and memory alone", needs=("answers",))
def draws_again(curriculum: Curriculum) -> None:
    """Check that equal arguments draw equal tasks, also after the memory was saved and loaded."""
    observe(curriculum, sample(0).groups)
    first = next_tasks(curriculum, _tasks(), 9, 5, 3)
    memory = memory_of(curriculum)
    observe(curriculum, sample(1).groups)
    curriculum.load_state_dict(memory)
    assert next_tasks(curriculum, _tasks(), 9, 5, 3) == first, "a resumed run draws other tasks"
