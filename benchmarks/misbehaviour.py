"""Play worlds that misbehave: a table of behaviour -> thread backend, process backend.

    python benchmarks/misbehaviour.py [NAME ...]

In each case one world misbehaves while three others are played beside it in the same pool (two
workers, one second for a step, two for a reset, with the start of a process fifteen); then two more
are played, and the pool is closed. All of it happens in a process of its own, which some behaviours
end in the thread backend. A cell says how the bad episode ended, how many of the five others were
played to their end, the seconds until everything was over, and which processes were left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turnrl.envs import EnvSettings, Outcome, Split, Task, TextEnv, register

MARK = "TURNRL_MISBEHAVIOUR"


class Quiet(TextEnv):
    """Takes five steps of ten milliseconds to win."""

    instructions = "Wait."

    def _tasks(self, split: Split) -> list[Task]:
        return [self.task({"train": 0, "valid": 1, "test": 2}[split], split)]

    def _begin(self, task: Task) -> Outcome:
        self.waited = 0
        return Outcome("You wait.")

    def _act(self, action: str) -> Outcome:
        time.sleep(0.01)
        self.waited += 1
        return Outcome("You wait.", ended=self.waited == 5, success=self.waited == 5)


def hang() -> None:
    """Sleep for longer than anybody waits."""
    time.sleep(600)


def throw(error: BaseException) -> Callable[[], None]:
    """Make a function that raises this."""

    def act() -> None:
        raise error

    return act


def recurse() -> None:
    """Call this function from itself until Python forbids it."""
    recurse()


def crash() -> None:
    """End the process by a signal of the processor."""
    ctypes.string_at(0)


def eat() -> None:
    """Ask for more memory than the process may have."""
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    bytearray(8 << 30)


def grow() -> None:
    """Keep 300 MB of memory."""
    Quiet.kept = bytearray(b"x") * (300 << 20)  # type: ignore[attr-defined]


def flood() -> None:
    """Print 20 MB through Python and past it."""
    for _ in range(10):
        print("x" * 1_000_000)
        os.write(2, b"y" * 1_000_000)


def close_files() -> None:
    """Close every file of the process but the first three."""
    os.closerange(3, 4096)


def leave_child() -> None:
    """Start a process and forget it."""
    subprocess.Popen(["sleep", "600"])


def leave_daemon() -> None:
    """Start a process in a session of its own, whose parent is gone."""
    subprocess.run(["setsid", "--fork", "sleep", "600"], check=True)


def fork() -> None:
    """Fork the process, so that it goes on twice."""
    os.fork()


def leave_thread() -> None:
    """Start a thread that never ends."""
    threading.Thread(target=hang).start()


def move() -> None:
    """Change the folder of the process."""
    os.chdir("/")


def mute() -> None:
    """Close the standard streams."""
    sys.stdout.close()
    sys.stderr.close()


def deafen() -> None:
    """Ignore the signals that ask to end."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


class Nasty(BaseException):
    """An exception that cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def say(**fields: Any) -> Callable[[], Outcome]:
    """Make a function that answers with these fields."""
    return lambda: Outcome(**{"observation": "You wait.", **fields})


STEPS: dict[str, Callable[[], Any]] = {
    "raises ValueError": throw(ValueError("no")),
    "raises SystemExit": throw(SystemExit(3)),
    "raises KeyboardInterrupt": throw(KeyboardInterrupt()),
    "raises CancelledError": throw(asyncio.CancelledError()),
    "raises StopIteration": throw(StopIteration()),
    "raises what has no message": throw(Nasty()),
    "calls itself for ever": recurse,
    "hangs in step": hang,
    "exits by os._exit": lambda: os._exit(3),
    "crashes": crash,
    "aborts": os.abort,
    "asks for too much memory": eat,
    "keeps 300 MB": grow,
    "prints 20 MB": flood,
    "closes all files": close_files,
    "leaves a child process": leave_child,
    "leaves a daemon": leave_daemon,
    "forks": fork,
    "leaves a thread": leave_thread,
    "goes to another folder": move,
    "closes the standard streams": mute,
    "ignores signals": deafen,
    "observes None": say(observation=None),
    "observes bytes": say(observation=b"You wait."),
    "observes 20 MB": say(observation="x" * 20_000_000),
    "observes half a surrogate pair": say(observation="\ud800"),
    "pays None": say(reward=None),
    "pays NaN": say(reward=float("nan")),
    "answers a tuple": lambda: ("You wait.", 0.0, False),
}
OTHERS: dict[str, Callable[[], Any]] = {
    "hangs in reset": hang,
    "raises in reset": throw(ValueError("no")),
    "raises in close": throw(ValueError("no")),
    "exits in close": throw(SystemExit(3)),
    "hangs in close": hang,
    "hangs in the expert": hang,
}
NAMES = (*STEPS, *OTHERS)


class Bad(Quiet):
    """Misbehaves as its parameter says, at its second step."""

    class Settings(EnvSettings):
        how: str

    settings: Settings

    def _does(self, place: str) -> Any:
        name = self.settings.how
        return OTHERS[name]() if name in OTHERS and name.endswith(f"in {place}") else None

    def _begin(self, task: Task) -> Outcome:
        self._does("reset")
        return super()._begin(task)

    def _act(self, action: str) -> Outcome:
        outcome = super()._act(action)
        name = self.settings.how
        said = STEPS[name]() if self.waited == 2 and name in STEPS else None
        return outcome if said is None else said

    def expert_action(self) -> str | None:
        self._does("the expert")
        return "wait"

    def close(self) -> None:
        self._does("close")


register("quiet/wait-v0", Quiet)
register("bad/behaviour-v0", Bad)


async def play(pool: Any, task: Task) -> str:
    """Play an episode and say how it ends."""
    from turnrl.envs.pool.pool import EnvFailure

    try:
        async with pool.episode(task) as world:
            await world.reset()
            for _ in range(5):
                await world.expert_action()
                stepped = await world.step("wait")
            return "played to the end" if stepped[2] else "not over"
    except EnvFailure as failure:
        first = str(failure).splitlines()[0].partition("#0: ")[2].partition(" (/")[0]
        return f"{failure.kind}: {first}"


async def case(name: str, backend: Any) -> dict[str, Any]:
    """Measure one row of the table for one backend."""
    from turnrl.envs.pool.pool import EnvPool

    options: dict[str, Any] = {
        "step_timeout": 1.0,
        "reset_timeout": 2.0 if backend == "thread" else 15.0,
    }
    pool = EnvPool(
        backend=backend, workers=2, slots=8, imports=[__file__], max_memory_mb=256, **options
    )
    bad = Task(env="bad/behaviour-v0", params={"how": name}, seed=0)
    quiet = Task(env="quiet/wait-v0", seed=0)
    if backend == "process":  # workers have started before anybody looks at the clock
        await asyncio.gather(play(pool, quiet), play(pool, quiet))
    ends = await asyncio.gather(play(pool, bad), *(play(pool, quiet) for _ in range(3)))
    ends += await asyncio.gather(*(play(pool, quiet) for _ in range(2)))
    began = time.monotonic()
    await pool.aclose()
    closing = time.monotonic() - began
    return {"bad": ends[0], "others": ends[1:].count("played to the end"), "closing": closing}


def alone(name: str, backend: str) -> dict[str, Any]:
    """Run `case` in a process of its own, and say what it left behind."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    command = [sys.executable, __file__, "--case", name, backend]
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.DEVNULL,
            env=os.environ | {MARK: mark},
            start_new_session=True,
        )
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        seconds = time.monotonic() - began
        out.seek(0)
        lines = [line for line in out if line.startswith("{")]
    left = leftovers(mark)
    found: dict[str, Any] = (
        json.loads(lines[-1]) if lines else {"bad": f"the whole process ended ({child.returncode})"}
    )
    return found | {"seconds": seconds, "left": left}


def leftovers(mark: str) -> list[str]:
    """Name the processes with this mark in their environment, and end them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in file.read_bytes().split(b"\0"):
                found.append((file.parent / "comm").read_text().strip())
                os.kill(int(file.parent.name), signal.SIGKILL)
    return sorted(found)


def cell(found: dict[str, Any]) -> str:
    """Write one cell of the table."""
    others = f"; others {found['others']}/5" if "others" in found else ""
    left = f"; left {', '.join(found['left'])}" if found["left"] else ""
    return f"{found['bad']}{others}; {found['seconds']:.1f} s{left}".replace("|", "/")


def main(arguments: list[str]) -> None:
    """Print the table, or one case."""
    if arguments[:1] == ["--case"]:
        out = os.fdopen(os.dup(1), "w", closefd=False)
        found = asyncio.run(case(arguments[1], arguments[2]))
        with contextlib.suppress(OSError):
            out.write("\n" + json.dumps(found) + "\n")
            out.flush()
        os._exit(0)
    print("| a world that | thread backend | process backend |\n|---|---|---|")
    for name in arguments or NAMES:
        print(
            f"| {name} | {cell(alone(name, 'thread'))} | {cell(alone(name, 'process'))} |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
