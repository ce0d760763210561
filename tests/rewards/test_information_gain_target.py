"""information_gain of the expert's plan: one target per episode, so that no detour pays."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import pytest
from turnrl.agents.episode import Episode, Group, StopReason
from turnrl.agents.play import EpisodeJob, play_many
from turnrl.envs import Outcome, Split, Task, TextEnv, register
from turnrl.envs.pool.pool import EnvPool
from turnrl.foundation.errors import UserError
from turnrl.rewards.base import REWARDS
from turnrl.training.plan import plan
from turnrl.training.recipe import Recipe

from ..agents.fake_engine import FakeEngine, tokenizer
from ..agents.fake_engine import agent as agent_of
from ..toy_world import recipe

WAYS = {
    ("hall", "right"): "cellar",
    ("cellar", "back"): "hall",
    ("hall", "left"): "gate",
    ("gate", "back"): "hall",
}
LIKELY = {
    ("hall", "right"): 0.5,
    ("hall", "left"): 0.5,
    ("cellar", "back"): 0.95,
    ("gate", "open"): 0.9,
}
"""What the policy makes of an action in a room; 0.01 of any other."""


class DeadEndEnv(TextEnv):
    """A hall with a dead end to the right and the gate to the left. Seed 9 has no expert."""

    instructions = "Go left, right or back, or open the gate."

    def _tasks(self, split: Split) -> list[Task]:
        first = ("train", "valid", "test").index(split) * 10
        return [self.task(seed, split) for seed in range(first, first + 10)]

    def _begin(self, task: Task) -> Outcome:
        self.room, self.known = "hall", task.seed != 9
        return Outcome("In hall.")

    def _act(self, action: str) -> Outcome:
        if (self.room, action) == ("gate", "open"):
            return Outcome("Free.", ended=True, success=True)
        valid = (self.room, action) in WAYS
        self.room = WAYS.get((self.room, action), self.room)
        return Outcome(f"In {self.room}.", valid=valid)

    def expert_action(self) -> str | None:
        return {"hall": "left", "cellar": "back", "gate": "open"}[self.room] if self.known else None


class LonelyEnv(TextEnv):
    """Nobody knows how it is won."""

    _tasks = DeadEndEnv._tasks

    def _begin(self, task: Task) -> Outcome:
        return Outcome("In hall.", admissible=["wait"])

    def _act(self, action: str) -> Outcome:
        return Outcome("In hall.", admissible=["wait"])


register("toy/dead-end-v0", DeadEndEnv)
register("toy/lonely-v0", LonelyEnv)


class Rooms(FakeEngine):
    """A policy that follows a script, with probabilities by the room it is in alone."""

    async def _score(
        self, conversation: str | None, tokens: Sequence[int], start: int
    ) -> list[float]:
        room = tokenizer().decode(tokens[:start]).rpartition("In ")[2].partition(".")[0]
        words = tokenizer().decode(tokens[start:]).strip()
        return [math.log(LIKELY.get((room, words), 0.01))] * (len(tokens) - start)


def walked(
    *actions: str, seed: int = 0, max_turns: int = 8, **config: Any
) -> tuple[Episode, list[float]]:
    """An episode of these actions, and what information_gain pays for it."""
    agent = agent_of(Rooms(lambda name, turn, prompt: actions[turn]))
    reward = REWARDS.build({"name": "information_gain", "target": "expert", **config})

    async def work() -> tuple[Episode, list[float]]:
        task = Task(env="toy/dead-end-v0", seed=seed)
        async with EnvPool() as pool:
            [episode], _ = await play_many(
                agent,
                [EpisodeJob(task, "s", 0)],
                pool,
                max_turns=min(max_turns, len(actions)),
                ask_expert=True,
            )
        [row] = await reward(Group(task, [episode]), agent)
        return episode, row

    return asyncio.run(work())


def test_a_wrong_turn_into_a_dead_end_is_not_paid_because_the_way_back_is_plain() -> None:
    """For the expert's next action this was +0.642, and -0.642 for the correction."""
    assert math.log(0.95 / 0.5) == pytest.approx(0.642, abs=1e-3)
    episode, row = walked("right", "back", "left", "open")
    assert episode.stop is StopReason.WON
    assert row == pytest.approx([0, 0, math.log(0.9 / 0.01), 0])


def test_a_detour_and_its_correction_cancel_and_the_total_does_not_pay_for_it() -> None:
    _, straight = walked("left", "open")
    for detour in (
        ["right", "back"],
        ["right", "back"] * 3,
        ["left", "back"],
        ["back", "right", "left", "back"],
    ):
        _, row = walked(*detour, "left", "open", max_turns=20)
        assert sum(row[: len(detour)]) == pytest.approx(0)
        assert sum(row) == pytest.approx(sum(straight))
    for gain in ("log_prob", "prob"):
        assert (
            sum(walked("right", gain=gain)[1])
            == sum(walked("right", "right", "right", gain=gain)[1])
            == 0
        )


def test_the_same_place_has_the_same_potential_however_it_was_reached() -> None:
    episode, row = walked(
        "right", "back", "left", "back", "right", "back", "left", "open", max_turns=20
    )
    rooms = [episode.opening, *(turn.observation for turn in episode.turns)]
    potential: dict[str, float] = {}
    for room, value in zip(rooms, accumulate(row[:-1], initial=0.0), strict=False):
        assert potential.setdefault(room, value) == pytest.approx(value)
    assert len(potential) == 3
    assert {
        round(b - a, 9) for a, b in pairwise([potential["In hall."], potential["In cellar."]])
    } == {0}


def test_the_target_is_the_last_action_of_the_plan_that_stood_at_the_beginning() -> None:
    for actions in (("left", "open"), ("right", "back", "left", "open"), ("right", "right")):
        assert walked(*actions)[0].expert == ["left", "open"]


def test_a_task_that_the_expert_does_not_win_could_not_be_measured() -> None:
    episode, row = walked("right", "back", "left", "open", seed=9)
    assert (episode.expert, episode.success) == ([], True)
    assert all(math.isnan(value) for value in row[:-1])
    assert len(row) == 4


def test_a_world_without_an_expert_is_told_before_anything_is_trained() -> None:
    gain = {"name": "information_gain", "target": "expert"}
    lonely = Recipe.parse(recipe(env={"id": "toy/lonely-v0"}, rewards=[{"name": "outcome"}, gain]))
    with pytest.raises(
        UserError, match=r"information_gain.*toy/lonely-v0 has no expert: set target: answer"
    ):
        plan(lonely)
    plan(Recipe.parse(recipe(rewards=[{"name": "outcome"}, gain])))
