"""Experts that err on purpose: what a mistake is, that it is not learnt from, and what happens where it leads."""

from __future__ import annotations

import asyncio
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnrl.agents.baselines import ExpertAgent, garbled
from turnrl.agents.episode import Episode, StopReason
from turnrl.agents.play import Job, play_many
from turnrl.envs import make
from turnrl.envs.pool import EnvPool
from turnrl.plugins import UserError
from turnrl.training.recipe import SftStage

from ..envs.toy_envs import CorridorEnv

WORDS = st.text("abc", min_size=1, max_size=4)


@given(st.lists(WORDS, min_size=1, max_size=8), st.lists(WORDS, max_size=5), st.integers())
def test_a_mistake_keeps_the_verb_and_takes_other_words_that_were_read(
    action: list[str], read: list[str], seed: int
) -> None:
    said = garbled(" ".join(action), read, random.Random(seed)).split(" ")
    if not read:
        assert said == action
    elif len(action) == 1:
        assert said[:1] == action
        assert len(said) == 2
        assert said[1] in read
    else:
        assert said[0] == action[0]
        assert len(said) == len(action)
        assert any(word in read for word in said[1:])
        assert all(new == old or new in read for old, new in zip(action, said, strict=True))


def test_a_mistake_keeps_what_holds_the_words_together() -> None:
    assert garbled("search[red shoes]", ["blue"], random.Random(0)) in (
        "search[blue shoes]",
        "search[red blue]",
        "search[blue blue]",
    )


def played(agent: ExpertAgent, *, tasks: int = 30) -> list[Episode]:
    async def work() -> list[Episode]:
        async with EnvPool(options={"extras": tuple(agent.extras)}) as pool:
            jobs = [Job(task, str(i), 0) for i in range(tasks) for task in make("toy/corridor-v0").tasks("train")[:1]]
            return (await play_many(agent, jobs, pool, max_turns=60, retries=0))[0]

    return asyncio.run(work())


def test_mistakes_are_mostly_refused_never_learnt_from_and_recovered_from() -> None:
    episodes = played(ExpertAgent(mistakes=0.3))
    assert {episode.stop for episode in episodes} == {StopReason.WON}
    turns = [turn for episode in episodes for turn in episode.turns]
    wrong = [turn for turn in turns if not turn.trained]
    assert 0.2 < len(wrong) / len(turns) < 0.4
    assert sum(not turn.valid_action for turn in wrong) > len(wrong) / 2
    assert all(turn.valid_action for turn in turns if turn.trained)
    assert all(re.fullmatch("(go|take) .+", turn.action or "") for turn in wrong)


def test_without_them_every_turn_is_the_experts() -> None:
    assert all(turn.trained and turn.valid_action for episode in played(ExpertAgent()) for turn in episode.turns)


def test_an_expert_that_is_lost_loses_its_episode_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_forward(self: CorridorEnv) -> str | None:
        if self._turns > self.cell:
            return None
        return "take coin" if self.cell == self.goal else "go east"

    monkeypatch.setattr(CorridorEnv, "expert_action", only_forward)
    episodes = played(ExpertAgent(mistakes=0.2))
    assert {episode.stop for episode in episodes} == {StopReason.WON, StopReason.ENGINE_ERROR}
    for episode in episodes:
        assert all(turn.trained for turn in episode.turns) == (episode.stop is StopReason.WON)
        if episode.error:
            assert "no way on" in episode.error


def test_a_world_without_an_expert_is_said_to_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CorridorEnv, "expert_action", lambda self: None)
    with pytest.raises(UserError, match="no expert"):
        played(ExpertAgent(mistakes=0.2))


def test_some_turns_are_left_to_the_expert() -> None:
    with pytest.raises(ValueError, match="their sum must be below 1"):
        SftStage(noise=0.5, mistakes=0.5)
