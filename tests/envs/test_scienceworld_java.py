"""The Java processes of scienceworld/task: how they start, die, and never stay behind."""

from __future__ import annotations

import asyncio
import gc
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

pytest.importorskip("scienceworld", reason="needs the extra: pip install 'turnrl[scienceworld]'")

from scienceworld.constants import BASEPATH
from turnrl.envs.pool.pool import EnvFailure, EnvPool
from turnrl.envs.scienceworld import java as java_module
from turnrl.foundation.errors import UserError

games = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("science_games.py"))))
ID, new, task, start, pid, gone = (
    games.ID,
    games.new,
    games.task,
    games.start,
    games.pid,
    games.gone,
)
SHORT = (
    "find-plant",
    "power-component",
    "chemistry-mix",
    "lifespan-shortest-lived",
    "identify-life-stages-2",
)


@pytest.fixture(scope="module", autouse=True)
def home(cache: Path, program: Callable[[str], str]) -> Path:
    program("java")
    return cache


def test_the_process_ends_with_close_and_with_the_garbage() -> None:
    one = new()
    start(one, "boil")
    number = pid(one)
    start(one, "find-plant")
    assert pid(one) == number
    one.close()
    assert gone(number, 0.1)
    start(one, "boil")
    number = pid(one)
    del one
    gc.collect()
    assert gone(number)


@pytest.mark.parametrize("how", ["exit", "killed", "crashed"])
def test_no_process_and_no_file_outlives_this_one(how: str, tmp_path: Path, home: Path) -> None:
    last = {"exit": "", "killed": "os.kill(os.getpid(), 9)", "crashed": "raise SystemError"}[how]
    code = f"""
import os, turnrl
env = turnrl.make("{ID}", task="boil")
env.reset(seed=0)
print(env._game.java.process.pid, flush=True)
{last}
"""
    package = {path: path.stat().st_mtime_ns for path in Path(BASEPATH).iterdir() if path.is_file()}
    files = {path.name for path in Path("/tmp").glob("hsperfdata_*/*")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    number = int(done.stdout)
    assert gone(number)
    assert how == "crashed" or not done.stderr
    assert not list(tmp_path.iterdir())
    assert package == {
        path: path.stat().st_mtime_ns for path in Path(BASEPATH).iterdir() if path.is_file()
    }
    assert str(number) not in {path.name for path in Path("/tmp").glob("hsperfdata_*/*")} - files


def test_a_dead_process_raises_and_the_next_episode_has_a_new_one() -> None:
    env = new(extras=())
    start(env, "boil")
    os.kill(pid(env), signal.SIGKILL)
    with pytest.raises(RuntimeError, match="the ScienceWorld simulator died: exit code -9"):
        env.step("look around")
    with pytest.raises(RuntimeError):
        env.step("look around")
    start(env, "boil")
    os.kill(pid(env), signal.SIGKILL)
    assert start(env, "find-plant").startswith("Your task is to find a(n) plant.")
    env.close()


def java_under(root: psutil.Process) -> list[psutil.Process]:
    return [p for p in root.children(recursive=True) if "java" in p.name()]


def test_a_pool_survives_dead_and_hung_processes_and_keeps_one_for_all_tasks() -> None:
    me = psutil.Process()
    others = {p.pid for p in java_under(me)}

    def mine() -> list[psutil.Process]:
        return [p for p in java_under(me) if p.pid not in others]

    async def play() -> None:
        async with EnvPool(
            backend="process", workers=1, slots=1, step_timeout=3, options={"extras": ()}
        ) as pool:
            async with pool.episode(task("boil")) as session:
                await session.reset()
                victim = mine()[0]
                victim.kill()
                assert gone(victim.pid)
                with pytest.raises(EnvFailure) as caught:
                    await session.step("look around")
                assert caught.value.kind == "error"
            for name in ("find-plant", "find-animal"):
                async with pool.episode(task(name)) as session:
                    await session.reset()
                    assert (await session.step("inventory"))[0].startswith("In your inventory")
            assert len(mine()) == 1
            async with pool.episode(task("boil")) as session:
                await session.reset()
                sleeper = mine()[0]
                sleeper.suspend()
                while sleeper.status() != psutil.STATUS_STOPPED:
                    time.sleep(0.01)
                with pytest.raises(EnvFailure) as caught:
                    await session.step("look around")
                assert caught.value.kind == "timeout"
            async with pool.episode(task("boil")) as session:
                await session.reset()
                assert (await session.step("inventory"))[4]["valid_action"]
            assert len(mine()) == 1

    asyncio.run(play())
    assert not mine()


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (None, "there is no 'java' on the PATH: install a Java runtime"),
        ('java version "1.7.0_80"', "is Java 7: install a Java runtime"),
        ("no", "does not say its version"),
    ],
)
def test_a_missing_or_old_java_is_said(
    says: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if says is not None:
        (tmp_path / "java").write_text(f"#!/bin/sh\necho '{says}' >&2\n")
        (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=words) as caught:
        start(new(), "boil")
    assert "\n" not in str(caught.value)


def test_versions_of_java_are_read(tmp_path: Path) -> None:
    for number, (says, version) in enumerate(
        [
            ('java version "1.8.0_442"', 8),
            ('openjdk version "17.0.15" 2025-04-15', 17),
            ('openjdk version "25" 2025', 25),
        ]
    ):
        fake = tmp_path / f"java{number}"
        fake.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
        fake.chmod(0o755)
        assert java_module._version(str(fake)) == version


def test_a_java_that_does_not_start_says_why() -> None:
    with pytest.raises(
        RuntimeError, match=r"does not start: exit code 1, last output: Error[^$]*heap"
    ):
        java_module.Java(1)


def test_nothing_is_imported_before_it_is_needed() -> None:
    code = """
import sys
import turnrl, turnrl.envs
assert not {"scienceworld", "py4j", "turnrl.envs.scienceworld"} & set(sys.modules)
sys.modules["scienceworld"] = None
try:
    turnrl.make("scienceworld/task-v0")
except turnrl.UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'turnrl[scienceworld]'" in done.stdout
    assert done.stdout.count("\n") == 1
