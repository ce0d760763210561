"""Artifacts: from a world through the pool to the turn, and to a file if they are asked for."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Literal

import pytest
import turnrl
from turnrl import UserError
from turnrl.agents.baselines import ExpertAgent
from turnrl.agents.episode import Episode, StopReason, save_episodes
from turnrl.agents.play import EpisodeJob, play_many
from turnrl.envs import Artifact, Task
from turnrl.envs.check.check import check_env
from turnrl.envs.pool.pool import EnvPool
from turnrl.envs.registry import import_worlds

from .artifact_worlds import SCREEN, WRONG

WORLD = str(Path(__file__).with_name("artifact_worlds.py"))
import_worlds(WORLD)
ID = "toy/painter-v0"
BACKENDS = pytest.mark.parametrize("backend", ["thread", "process"])


def play(backend: Literal["thread", "process"], *tasks: Task) -> list[Episode]:
    async def work() -> list[Episode]:
        async with EnvPool(backend=backend, workers=1, imports=[WORLD]) as pool:
            jobs = [EpisodeJob(task, str(number), 0) for number, task in enumerate(tasks)]
            return (await play_many(ExpertAgent(), jobs, pool, max_turns=2, retries=0))[0]

    return asyncio.run(asyncio.wait_for(work(), 60))


@BACKENDS
def test_what_a_world_attaches_stays_with_the_opening_and_the_turn(
    backend: Literal["thread", "process"],
) -> None:
    (episode,) = play(backend, Task(env=ID, seed=3))
    assert episode.stop is StopReason.WON
    assert episode.artifacts == {"screen": SCREEN}
    diff = Artifact("text/x-diff", b"+ paint 3")
    assert [turn.artifacts for turn in episode.turns] == [{"screen": SCREEN, "change.diff": diff}]


@BACKENDS
def test_what_cannot_be_attached_ends_its_own_episode_and_is_named(
    backend: Literal["thread", "process"],
) -> None:
    episodes = play(backend, *(Task(env=ID, params={"wrong": how}, seed=0) for how in WRONG))
    for (_, sentence), episode in zip(WRONG.values(), episodes, strict=True):
        assert episode.stop is StopReason.ENV_ERROR
        assert sentence in (episode.error or "").splitlines()[0]


def test_a_file_of_episodes_has_them_only_if_it_is_asked_to(tmp_path: Path) -> None:
    (episode,) = play("thread", Task(env=ID, seed=1))
    for asked in (False, True):
        save_episodes(tmp_path / "episodes.jsonl.gz", [episode], artifacts=asked)
        text = gzip.decompress((tmp_path / "episodes.jsonl.gz").read_bytes()).decode()
        assert ("artifacts" in text) is asked
        again = Episode.from_json(json.loads(text))
        assert again.turns[0].artifacts == (episode.turns[0].artifacts if asked else {})
        assert (again == episode) is asked
    assert episode.to_json() == Episode.from_json(episode.to_json()).to_json()


def test_a_refused_action_shows_nothing_new() -> None:
    env = turnrl.make(ID)
    assert env.reset(seed=0)[1]["artifacts"] == {"screen": SCREEN}
    assert env.step("paint 1. paint 2")[4]["artifacts"] == {}
    assert env.step("paint 1")[4]["artifacts"] == {"screen": SCREEN}


def test_the_checker_looks_at_them() -> None:
    assert check_env(ID, imports=[WORLD]).ok
    for how, (_, sentence) in WRONG.items():
        report = check_env(ID, params={"wrong": how}, imports=[WORLD], tasks=1, report=True)
        assert sentence in report.failures[0].detail


def test_parameters_are_checked_like_those_of_any_world() -> None:
    with pytest.raises(UserError, match="toy/painter-v0: unknown key 'wrog'; did you mean 'wrong'"):
        turnrl.make(ID, wrog="list")
