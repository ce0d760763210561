"""Worlds that misbehave in a pool: their own episode ends at once, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import runpy
import time
from pathlib import Path
from typing import Any

import pytest
from turnrl import evaluate
from turnrl.agents.agent import Agent, Player
from turnrl.agents.episode import Turn
from turnrl.envs import Task, closing
from turnrl.envs.pool.pool import EnvFailure, EnvPool
from turnrl.envs.registry import import_worlds

from ..logged import logged

BENCHMARK = str(Path(__file__).parents[2] / "benchmarks" / "misbehaviour.py")
import_worlds(BENCHMARK)
WORLDS: dict[str, Any] = runpy.run_path(BENCHMARK)
BACKENDS = pytest.mark.parametrize("backend", ["thread", "process"])


class Waits(Agent):
    """Waits for the end."""

    def player(self, episode_id: str, seed: int) -> Player:
        class Waiter(Player):
            async def move(self) -> Turn:
                return Turn([], True, [], [], text="wait", action="wait")

        return Waiter()


QUIET = Task(env="quiet/wait-v0", seed=0)


def bad(how: str) -> Task:
    return Task(env="bad/behaviour-v0", params={"how": how}, seed=0)


async def play(pool: EnvPool, task: Task) -> str:
    return str(await WORLDS["play"](pool, task))


def beside(how: str, backend: Any, **options: Any) -> tuple[list[str], dict[str, int]]:
    """How a bad episode ends, then three others in the same worker, then one more."""

    async def work() -> tuple[list[str], dict[str, int]]:
        async with EnvPool(
            **{"backend": backend, "workers": 1, "imports": [BENCHMARK]} | options
        ) as pool:
            ends = await asyncio.gather(
                play(pool, bad(how)), *(play(pool, QUIET) for _ in range(3))
            )
            return [*ends, await play(pool, QUIET)], dict(pool.stats)

    return asyncio.run(asyncio.wait_for(work(), 60))


@BACKENDS
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("raises ValueError", "ValueError: no"),
        ("raises SystemExit", "SystemExit: 3"),
        ("raises KeyboardInterrupt", "KeyboardInterrupt"),
        ("raises CancelledError", "CancelledError"),
        ("raises StopIteration", "StopIteration"),
        ("raises what has no message", "Nasty: (its message cannot be read)"),
        ("calls itself for ever", "RecursionError"),
        ("raises in reset", "ValueError: no"),
    ],
)
def test_whatever_a_world_raises_ends_its_own_episode_at_once(
    backend: str, how: str, told: str
) -> None:
    ends, stats = beside(how, backend)
    assert ends[0].startswith(f"error: {told}")
    assert ends[1:] == ["played to the end"] * 4
    assert (stats["errors"], stats["timeouts"], stats["restarts"]) == (1, 0, 0)


@pytest.mark.parametrize(
    "how", ["prints 20 MB", "goes to another folder", "leaves a thread", "ignores signals"]
)
def test_what_would_harm_this_process_harms_nobody_in_a_worker(how: str) -> None:
    assert beside(how, "process")[0] == ["played to the end"] * 5


@pytest.mark.parametrize("how", ["exits by os._exit", "crashes", "aborts", "closes all files"])
def test_a_world_that_ends_its_process_is_an_error_and_the_pool_goes_on(how: str) -> None:
    ends, stats = beside(how, "process")
    assert ends[0].startswith("error: the worker process of this episode died")
    assert ends[-1] == "played to the end"
    assert stats["restarts"] == 1


@BACKENDS
def test_a_copy_of_the_process_that_a_world_made_does_not_go_on(backend: str) -> None:
    before = children()
    ends, stats = beside("forks", backend)
    assert ends == ["played to the end"] * 5
    assert (stats["errors"], stats["restarts"]) == (0, 0)
    reap_zombies()
    assert children() <= before


def children() -> set[str]:
    """Processes that this process started."""
    return {
        file.parent.name
        for file in Path("/proc").glob("[0-9]*/stat")
        if file.exists() and file.read_text().rpartition(")")[2].split()[1] == str(os.getpid())
    }


def reap_zombies() -> None:
    """The copy of a thread pool's process is a child that nobody waits for."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.05)
        except ChildProcessError:
            return


@pytest.mark.parametrize("how", ["leaves a child process", "leaves a daemon"])
def test_what_a_worker_started_ends_with_it(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORLDS["MARK"], mark := f"{os.getpid()} {how}")
    ends, _ = beside(how, "process")
    assert ends == ["played to the end"] * 5
    assert WORLDS["leftovers"](mark) == []


def test_a_daemon_ends_with_a_worker_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORLDS["MARK"], mark := f"{os.getpid()} died")

    async def work() -> None:
        async with EnvPool(backend="process", workers=1, imports=[BENCHMARK]) as pool:
            assert await play(pool, bad("leaves a daemon")) == "played to the end"
            async with pool.episode(bad("exits by os._exit")) as world:
                await world.reset()
                await world.step("wait")
                with pytest.raises(EnvFailure, match="died"):
                    await world.step("wait")
            assert len(WORLDS["leftovers"](mark)) == 0

    asyncio.run(asyncio.wait_for(work(), 60))


@pytest.mark.parametrize("how", ["raises in close", "exits in close", "hangs in close"])
def test_a_finished_evaluation_is_not_lost_by_a_close(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "LIMIT", 0.3)
    with logged(r"close\(\) of (a world|bad/behaviour-v0)"):
        result = evaluate("bad/behaviour-v0", Waits(), params={"how": how}, progress=False)
    assert (result.n, result.success) == (1, 1.0)


@BACKENDS
@pytest.mark.parametrize("how", ["raises in close", "exits in close", "hangs in close"])
def test_a_close_does_not_hold_the_pool(
    backend: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "LIMIT", 0.3)
    ends, stats = beside(how, backend)
    assert ends == ["played to the end"] * 5
    assert stats["errors"] == 0


def test_worlds_that_are_closed_to_make_room_do_not_hold_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One slot, so each new kind of world pushes out the last one, whose close never ends."""
    monkeypatch.setattr(closing, "LIMIT", 0.3)

    async def work() -> list[str]:
        async with EnvPool(workers=1, slots=1) as pool:
            return [
                await play(pool, task)
                for task in (bad("hangs in close"), QUIET, bad("hangs in close"), QUIET)
            ]

    with logged("has not ended after"):
        assert asyncio.run(asyncio.wait_for(work(), 30)) == ["played to the end"] * 4


KILLED = """
import os, signal
path = {path!r}
count = int(open(path).read()) if os.path.exists(path) else 0
open(path, "w").write(str(count + 1))
if count in {which!r}:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_that_are_killed_while_they_start_do_not_end_the_run(tmp_path: Path) -> None:
    """Four are killed, as by a system short of memory, and three more after one that lived."""
    killer = tmp_path / "killer.py"
    killer.write_text(KILLED.format(path=str(tmp_path / "count"), which=[0, 1, 2, 3, 5, 6, 7]))

    async def work() -> dict[str, int]:
        imports = [str(killer), BENCHMARK]
        async with EnvPool(
            backend="process", workers=1, imports=imports, recycle_episodes=1
        ) as pool:
            assert [await play(pool, QUIET) for _ in range(2)] == ["played to the end"] * 2
            return dict(pool.stats)

    assert asyncio.run(asyncio.wait_for(work(), 120))["restarts"] == 7
