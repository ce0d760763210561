"""Experts that are led astray by noise: their episode is lost, and no other."""

from __future__ import annotations

import asyncio

import pytest
from turnrl.agents.baselines import ExpertAgent
from turnrl.agents.episode import Episode, StopReason
from turnrl.agents.play import Job, play_many
from turnrl.envs import make
from turnrl.envs.pool import EnvPool
from turnrl.plugins import UserError

from ..envs.toy_envs import CorridorEnv


def played(agent: ExpertAgent) -> list[Episode]:
    async def work() -> list[Episode]:
        async with EnvPool(options={"extras": tuple(agent.extras)}) as pool:
            [task] = make("toy/corridor-v0").tasks("train")[:1]
            return (await play_many(agent, [Job(task, str(i), 0) for i in range(30)], pool, max_turns=60, retries=0))[0]

    return asyncio.run(work())


def test_an_expert_that_is_lost_loses_its_episode_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_world_without_an_expert_is_said_to_have_none(monkeypatch: pytest.MonkeyPatch, noise: float) -> None:
    monkeypatch.setattr(CorridorEnv, "expert_action", lambda self: None)
    with pytest.raises(UserError, match="no expert"):
        played(ExpertAgent(noise))
