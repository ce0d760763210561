"""Experts that are led astray by noise, or know no way: their episode is lost, and no other."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from turnrl import evaluate
from turnrl.agents.agent import Agent
from turnrl.agents.baselines import ExpertAgent, RandomAgent
from turnrl.agents.episode import Episode, StopReason
from turnrl.agents.play import EpisodeJob, play_many
from turnrl.envs import Outcome, Task, make
from turnrl.envs.pool.pool import EnvPool
from turnrl.envs.registry import import_worlds
from turnrl.foundation.errors import UserError

from ..logged import logged

import_worlds(str(Path(__file__).parents[1] / "envs" / "toy_envs.py"))
CorridorEnv: Any = type(make("toy/corridor-v0"))
"""The class that is registered; another test may have imported the file of toy worlds under another
name.
"""


def played(agent: Agent, tasks: int = 1) -> list[Episode]:
    async def work() -> list[Episode]:
        async with EnvPool(options={"extras": tuple(agent.extras)}) as pool:
            chosen = make("toy/corridor-v0").tasks("train")[:tasks]
            jobs = [EpisodeJob(chosen[i % tasks], str(i), 0) for i in range(30)]
            return (await play_many(agent, jobs, pool, max_turns=60, retries=0))[0]

    return asyncio.run(work())


def test_an_expert_that_is_lost_loses_its_episode_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never_went_back(self: CorridorEnv) -> str | None:
        if self._turns > self.cell:
            return None
        return "take coin" if self.cell == self.goal else "go east"

    monkeypatch.setattr(CorridorEnv, "expert_action", never_went_back)
    episodes = played(ExpertAgent(noise=0.3))
    assert {episode.stop for episode in episodes} == {StopReason.WON, StopReason.ENGINE_ERROR}
    for episode in episodes:
        went_back = any(turn.action == "go west" for turn in episode.turns)
        assert went_back == (episode.stop is StopReason.ENGINE_ERROR)
        assert not went_back or "no way on" in str(episode.error)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_world_without_an_expert_is_said_to_have_none(
    monkeypatch: pytest.MonkeyPatch, noise: float
) -> None:
    monkeypatch.setattr(CorridorEnv, "expert_action", lambda self: None)
    with pytest.raises(UserError, match="no expert"):
        played(ExpertAgent(noise))


@pytest.mark.parametrize("agent", [ExpertAgent(), RandomAgent()])
def test_a_task_that_cannot_be_played_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, agent: Agent
) -> None:
    """A task without an expert's way, or that lists nothing, does not end the others."""
    expert, begin = CorridorEnv.expert_action, CorridorEnv._begin

    def mostly(self: CorridorEnv) -> str | None:
        assert self.current is not None
        return None if self.current.seed == 2 else expert(self)

    def silent(self: CorridorEnv, task: Task) -> Outcome:
        outcome: Outcome = begin(self, task)
        return replace(outcome, admissible=None) if task.seed == 2 else outcome

    monkeypatch.setattr(CorridorEnv, "expert_action", mostly)
    monkeypatch.setattr(CorridorEnv, "_begin", silent)
    with logged(
        r"10 of 30 episodes, such as toy/corridor-v0.*, cannot be played and count",
    ):
        episodes = played(agent, tasks=3)
    stops = [episode.stop for episode in episodes]
    assert [stop is StopReason.UNPLAYABLE for stop in stops] == [
        episode.task.seed == 2 for episode in episodes
    ]
    with logged("cannot be played"):
        result = evaluate("toy/corridor-v0", agent, split="train", tasks=3, progress=False)
    assert (result.n, result.failed) == (2, {"unplayable": 1})
