"""The pool: the same results from both backends, and faults that stay inside their episode."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pytest
from turnrl import UserError
from turnrl.envs import Task
from turnrl.envs.pool.instances import InstancePool
from turnrl.envs.pool.pool import EnvFailure, EnvPool, EnvSession, WorkerStartError
from turnrl.envs.registry import import_worlds

TOYS = str(Path(__file__).with_name("toy_envs.py"))
import_worlds(TOYS)

BACKENDS = pytest.mark.parametrize("backend", ["thread", "process"])


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """All temporary directories go here; none may be left, and no worker may live on."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = processes()
    yield tmp_path
    assert list(tmp_path.glob("turnrl-worker-*")) == []
    assert processes() <= before


def processes() -> set[int]:
    """Worker processes that this process started, zombies too."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == os.getpid():
            found.add(int(stat.parent.name))
    return found


def run(play: Callable[[EnvPool], Awaitable[Any]], **options: Any) -> tuple[Any, dict[str, int]]:
    """What `play` returns for a pool that knows the toys, and the pool's counters."""

    async def main() -> Any:
        async with EnvPool(imports=[TOYS], **options) as pool:
            return await asyncio.wait_for(play(pool), 60), dict(pool.stats)

    found: tuple[Any, dict[str, int]] = asyncio.run(main())
    return found


def task(name: str = "corridor", seed: int = 0, **params: Any) -> Task:
    return Task(env=f"toy/{name}-v0", params=params, seed=seed)


async def play(pool: EnvPool, task: Task, actions: list[str]) -> list[Any]:
    async with pool.episode(task) as session:
        seen: list[Any] = [await session.reset(), session.instructions, session.tools]
        for action in actions:
            seen.append(await session.expert_action())
            seen.append(await session.step(action))
        return seen


WALK = [
    "go east",
    "take coin",
    "go west",
    "",
    "fly \\ then quit",
    "go east",
    "go east",
    "go east",
    "take coin",
]


def test_same_results_from_both_backends() -> None:
    async def sweep(pool: EnvPool) -> Any:
        lengths: list[dict[str, Any]] = [{}, {"length": 5}]
        tasks = [task(seed=seed, **params) for seed in range(6) for params in lengths]
        return await asyncio.gather(*[play(pool, task, WALK) for task in tasks])

    threads, _ = run(sweep, backend="thread", workers=3)
    workers, stats = run(sweep, backend="process", workers=2)
    assert threads == workers
    assert stats["episodes"] == 12
    assert stats["steps"] == 12 * len(WALK)
    assert threads[0][-1][2] is True
    assert threads[0][-1][4]["success"] is True


@BACKENDS
def test_sixty_four_episodes_at_once(backend: str) -> None:
    async def many(pool: EnvPool) -> Any:
        return await asyncio.gather(*[play(pool, task(seed=i % 6), WALK) for i in range(64)])

    seen, stats = run(many, backend=backend, workers=2)
    assert all(seen[i] == seen[i % 6] for i in range(64))
    assert stats["errors"] == stats["timeouts"] == stats["restarts"] == 0


@BACKENDS
def test_options_reach_the_worlds(backend: str) -> None:
    seen, _ = run(
        lambda pool: play(pool, task(), ["go east", "go east"]),
        backend=backend,
        workers=1,
        options={"extras": ("progress",), "max_turns": 2},
    )
    assert seen[0][1]["admissible_actions"] is None
    assert seen[0][1]["progress"] == 0.0
    assert seen[-1][2:4] == (False, True)


@BACKENDS
def test_slots_hold_back_further_episodes(backend: str) -> None:
    now, most = 0, 0

    async def one(pool: EnvPool) -> None:
        nonlocal now, most
        async with pool.episode(task()) as session:
            now += 1
            most = max(most, now)
            await session.reset()
            await session.step("go east")
            now -= 1

    async def many(pool: EnvPool) -> None:
        await asyncio.gather(*[one(pool) for _ in range(20)])

    run(many, backend=backend, workers=1, slots=3)
    assert most == 3


@BACKENDS
def test_an_exception_is_an_error_and_the_pool_goes_on(backend: str) -> None:
    async def both(pool: EnvPool) -> None:
        async with pool.episode(task("faulty")) as session, pool.episode(task("faulty")) as other:
            await session.reset()
            await other.reset()
            with pytest.raises(EnvFailure, match="the world fell apart") as caught:
                await session.step("crash")
            assert caught.value.kind == "error"
            with pytest.raises(EnvFailure):
                await session.step("go east")
            assert (await other.step("go east"))[0]
        assert await play(pool, task(), WALK)

    _, stats = run(both, backend=backend, workers=1)
    assert (stats["errors"], stats["restarts"]) == (1, 0)


@BACKENDS
def test_a_hang_is_a_timeout_and_the_pool_goes_on(backend: str) -> None:
    async def hang(pool: EnvPool) -> None:
        async with pool.episode(task("faulty")) as session:
            await session.reset()
            with pytest.raises(EnvFailure) as caught:
                await session.step("hang")
            assert caught.value.kind == "timeout"
        assert await play(pool, task(), WALK)

    _, stats = run(hang, backend=backend, workers=1, step_timeout=1.0)
    assert (stats["timeouts"], stats["errors"], stats["restarts"]) == (1, 0, 1)


def test_a_hang_costs_the_others_of_its_worker_an_error() -> None:
    async def hang(pool: EnvPool) -> None:
        async with pool.episode(task("faulty")) as session, pool.episode(task("faulty")) as other:
            await session.reset()
            await other.reset()
            ends = await asyncio.gather(
                session.step("hang"), other.step("go east"), return_exceptions=True
            )
            assert [end.kind for end in ends if isinstance(end, EnvFailure)] == ["timeout", "error"]

    run(hang, backend="process", workers=1, step_timeout=1.0)


def test_a_busy_event_loop_is_not_the_worlds_fault() -> None:
    async def stall(pool: EnvPool) -> None:
        async with pool.episode(task("faulty")) as session:
            await session.reset()
            stepping = asyncio.ensure_future(session.step("go east"))
            await asyncio.sleep(0)
            time.sleep(2.0)
            assert (await stepping)[0]

    for backend in ("thread", "process"):
        _, stats = run(stall, backend=backend, workers=1, step_timeout=1.0)
        assert stats["timeouts"] == 0


def test_a_dead_worker_ends_its_own_episodes_only() -> None:
    async def pid(session: EnvSession) -> str:
        await session.reset()
        return (await session.step("pid"))[0]

    async def crash(pool: EnvPool) -> None:
        async with (
            pool.episode(task("faulty")) as a,
            pool.episode(task("faulty")) as b,
            pool.episode(task("faulty")) as c,
        ):
            homes = [await pid(session) for session in (a, b, c)]
            assert homes[0] == homes[2] != homes[1]
            with pytest.raises(EnvFailure, match="died") as caught:
                await a.step("exit")
            assert caught.value.kind == "error"
            assert (await b.step("go east"))[0]
            with pytest.raises(EnvFailure, match="died"):
                await c.step("go east")
        assert all(await asyncio.gather(*[play(pool, task(seed=i), WALK) for i in range(6)]))

    _, stats = run(crash, backend="process", workers=2)
    assert (stats["errors"], stats["restarts"]) == (2, 1)


def test_workers_are_recycled_after_their_episodes() -> None:
    async def home(pool: EnvPool) -> str:
        async with pool.episode(task("faulty")) as session:
            await session.reset()
            return (await session.step("pid"))[0].split()[0]

    async def many(pool: EnvPool) -> list[str]:
        return [await home(pool) for _ in range(5)]

    homes, stats = run(many, backend="process", workers=1, recycle_episodes=2)
    assert homes[0] == homes[1] != homes[2] == homes[3] != homes[4]
    assert (stats["recycled"], stats["restarts"], stats["errors"]) == (2, 0, 0)


def test_workers_are_recycled_when_they_grow() -> None:
    async def grow(pool: EnvPool) -> None:
        for action in ("memory", "look", "look"):
            async with pool.episode(task("faulty")) as session:
                await session.reset()
                await session.step(action)

    _, stats = run(grow, backend="process", workers=1, max_memory_mb=10)
    assert stats["recycled"] == 3
    _, stats = run(grow, backend="process", workers=1, max_memory_mb=4000)
    assert stats["recycled"] == 0


def test_files_of_a_world_go_to_a_private_directory(temporary: Path) -> None:
    async def write(pool: EnvPool) -> list[Path]:
        async with pool.episode(task("faulty")) as session:
            await session.reset()
            await session.step("file")
            return list(temporary.rglob("left-behind"))

    files, _ = run(write, backend="process", workers=1)
    assert len(files) == 1
    assert not Path("left-behind").exists()


@BACKENDS
def test_a_cancelled_episode_frees_its_slot(backend: str) -> None:
    async def cancel(pool: EnvPool) -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(play(pool, task("busy"), ["go east"] * 5000), 0.2)
        assert await play(pool, task(), WALK)

    _, stats = run(cancel, backend=backend, workers=1, slots=1)
    assert stats["errors"] == 0


@BACKENDS
def test_one_pool_serves_one_loop_after_another(backend: str) -> None:
    with closing(EnvPool(backend=backend, workers=1, imports=[TOYS])) as pool:  # type: ignore[arg-type]
        first, second = (asyncio.run(play(pool, task(), WALK)) for _ in range(2))
        assert first == second
    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(play(pool, task(), WALK))


@BACKENDS
def test_user_mistakes_are_told_as_such(backend: Literal["thread", "process"]) -> None:
    async def unknown(pool: EnvPool) -> None:
        await play(pool, Task(env="toy/nothing-v0", seed=0), [])

    with pytest.raises(UserError, match=r"no environment 'toy/nothing-v0'.*imports="):
        run(unknown, backend=backend, workers=1)
    with pytest.raises(UserError, match="at least 1"):
        EnvPool(backend=backend, slots=0)


def test_worlds_that_cannot_share_a_process_are_refused_in_threads() -> None:
    with pytest.raises(UserError, match="backend='process'"):
        run(lambda pool: play(pool, task("outside"), []), backend="thread")
    assert run(lambda pool: play(pool, task("outside"), WALK), backend="process", workers=1)


def test_calls_out_of_order() -> None:
    async def wrong(pool: EnvPool) -> None:
        async with pool.episode(task()) as session:
            with pytest.raises(RuntimeError, match="reset"):
                await session.step("go east")
            await session.reset()
            ends = await asyncio.gather(
                session.step("go east"), session.step("go east"), return_exceptions=True
            )
            assert isinstance(ends[1], RuntimeError)
            for action in ("go east", "go east", "take coin"):
                ended = (await session.step(action))[2]
            assert ended
            with pytest.raises(RuntimeError, match="over"):
                await session.step("go east")
            assert (await session.reset())[0].startswith("You are in a corridor")

    run(wrong, workers=1)


def test_a_missing_import_is_a_user_error(tmp_path: Path) -> None:
    async def start(name: str) -> None:
        async with EnvPool(backend="process", workers=1, imports=[name]) as pool:
            await play(pool, task(), [])

    for name in (str(tmp_path / "absent.py"), "no_such_module_anywhere"):
        with pytest.raises(UserError, match="imports"):
            asyncio.run(start(name))


def test_workers_that_cannot_start_are_not_tried_for_ever(tmp_path: Path) -> None:
    broken = tmp_path / "broken_world.py"
    broken.write_text(
        "import os, sys; print('this world is broken', file=sys.stderr, flush=True); os._exit(1)"
    )

    async def start() -> None:
        async with EnvPool(backend="process", workers=1, imports=[str(broken)]) as pool:
            with pytest.raises(WorkerStartError, match="this world is broken"):
                await play(pool, task(), [])
            assert pool.stats["restarts"] == 3
        # What raises is the user's mistake: it is told at once.
        broken.write_text("raise ValueError('this world is wrong')")
        async with EnvPool(backend="process", workers=1, imports=[str(broken)]) as pool:
            with pytest.raises(UserError, match=r"this world is wrong .*broken_world.py:1"):
                await play(pool, task(), [])

    asyncio.run(start())


SCRIPT = """
import asyncio, sys, tempfile
from turnrl.envs import Task
from turnrl.envs.pool.pool import EnvPool
tempfile.tempdir = sys.argv[2]

async def main():
    pool = EnvPool(backend="process", workers=2, imports=[sys.argv[1]])
    async with pool.episode(Task(env="toy/faulty-v0", seed=0)) as session:
        await session.reset()
        print((await session.step("pid"))[0].split()[0], flush=True)
        await session.step(sys.argv[3])

asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, None])
@pytest.mark.parametrize("action", ["hang", "go east"])
def test_workers_end_with_their_parent(
    how: signal.Signals | None, action: str, temporary: Path
) -> None:
    if how is None and action == "hang":
        pytest.skip("nobody ends it")
    script = [sys.executable, "-c", SCRIPT, TOYS, str(temporary), action]
    with subprocess.Popen(
        script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        worker = Path("/proc") / parent.stdout.readline().strip()
        if how is not None:
            parent.send_signal(how)
        parent.wait()
    deadline = time.monotonic() + 30
    while (
        worker.exists() or list(temporary.glob("turnrl-worker-*"))
    ) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker.exists()


def test_an_idle_instance_that_has_the_task_loaded_comes_first() -> None:
    instances = InstancePool(idle=4)
    tasks = [Task(env="toy/corridor-v0", seed=seed) for seed in range(3)]
    for session, task in enumerate(tasks):
        instances.reset(session, task)
    played = {task.seed: instances._held[session][1] for session, task in enumerate(tasks)}
    for session in range(3):
        instances.release(session)
    for session, seed in enumerate((1, 0, 2)):
        instances.reset(session, tasks[seed])
        assert instances._held[session][1] is played[seed]
    instances.close()
