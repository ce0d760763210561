"""Game files on demand: made and compiled by worker processes, kept in the cache::

    folder = generated([("heat", 7)])[0]        # ~/.cache/turnrl/household/.../heat/7 with game.tw-pddl, traj_data.json
    path = compiled_official([game_file])[0]    # the same data for a game of the user's, by the digest of its bytes

Where a path exists it is complete. One idle worker is kept for the next call; it ends by itself after half a minute.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...plugins import UserError
from ..bar import bar
from ..cache import cache_dir, private
from .compiled_format import FORMAT, Compiled
from .problem import GENERATOR
from .source import versions

_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
"""The translator iterates over sets of strings, so the planner's choice among equals depends on the hash seed."""
_idle: list[_Worker] = []
_making = threading.Lock()


class GameError(RuntimeError):
    """A game could not be made, for a reason that is not the user's."""


@dataclass(frozen=True)
class _Job:
    path: Path
    what: str
    order: dict[str, Any]
    key: str
    """Where the order says where to write."""
    users: bool = False
    """The game file is the user's, so what is wrong with it is told as such."""


def generated(keys: Sequence[tuple[str, int]], *, workers: int | None = None, progress: bool = False) -> list[Path]:
    """Folders of generated games by (task type, seed); the missing ones are made. Raises GameError."""
    home = cache_dir("household", f"v{GENERATOR}.{FORMAT}-{versions()}")
    jobs = [
        _Job(home / kind / str(seed), f"{kind} with seed {seed}", {"make": {"kind": kind, "seed": seed}}, "folder")
        for kind, seed in keys
    ]
    return _ensure(jobs, home, "making household games", workers, progress)


def compiled_official(files: Sequence[Path], *, workers: int | None = None, progress: bool = False) -> list[Path]:
    """Compiled data of game files, by their bytes; the missing ones are made. Raises UserError for a broken file."""
    home = cache_dir("household", "official", f"{FORMAT}-{versions()}")
    jobs = [
        _Job(
            home / f"{hashlib.sha256(file.read_bytes()).hexdigest()[:32]}.json.gz", str(file), {"compile": str(file)},
            "out", users=True,
        )
        for file in files
    ]  # fmt: skip
    return _ensure(jobs, home, "reading ALFWorld games", workers, progress)


@lru_cache(maxsize=64)
def opened(path: Path) -> Compiled:
    """A compiled game, shared by all instances of this process that play it."""
    return Compiled.read(path)


def _ensure(jobs: Sequence[_Job], home: Path, what: str, workers: int | None, progress: bool) -> list[Path]:
    paths = [job.path for job in jobs]
    if not all(path.exists() for path in paths):
        with _making:
            missing = {job.path: job for job in jobs if not job.path.exists()}
            if missing:
                _make(list(missing.values()), home, what, workers or os.cpu_count() or 1, progress)
    return paths


def _make(jobs: list[_Job], home: Path, what: str, workers: int, progress: bool) -> None:
    todo: queue.SimpleQueue[_Job] = queue.SimpleQueue()
    for job in jobs:
        todo.put(job)
    failures: list[Exception] = []
    with bar(what, len(jobs), progress and len(jobs) > 1) as advance:
        count = min(workers, len(jobs))
        threads = [threading.Thread(target=_work, args=(todo, home, failures, advance)) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


def _work(todo: queue.SimpleQueue[_Job], home: Path, failures: list[Exception], advance: Callable[[int], None]) -> None:
    """Feed one worker until no job is left; one that dies is replaced."""
    try:
        worker = _idle.pop()
    except IndexError:
        worker = _Worker()
    while True:
        try:
            job = todo.get_nowait()
        except queue.Empty:
            break
        try:
            _one(worker, job, home)
        except Exception as error:
            failures.append(error)
        advance(1)
    if _idle:
        worker.stop()
    else:
        _idle.append(worker)


def _one(worker: _Worker, job: _Job, home: Path) -> None:
    with private(home) as folder:
        made = folder / job.path.name
        answer = worker.ask({**job.order, job.key: str(made)})
        if not answer["ok"]:
            raise (UserError if job.users else GameError)(f"cannot make the game {job.what}: {answer['error']}")
        job.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            made.rename(job.path)
        except OSError:
            # Another process was first; what it made is the same.
            if not job.path.exists():
                raise


class _Worker:
    """A worker process, started when it is first asked and again when it is gone."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """Its answer to a job. A worker that ended while it was idle is replaced once."""
        for fresh in (False, True):
            if fresh or self._process is None or self._process.poll() is not None:
                self.stop()
                self._process = _start()
            line = self._say(self._process, json.dumps(job))
            if line:
                return dict(json.loads(line))
        code = self._process.wait() if self._process is not None else None
        return {"ok": False, "error": f"its worker process ended with code {code}"}

    def _say(self, process: subprocess.Popen[str], text: str) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(text + "\n")
            process.stdin.flush()
            return process.stdout.readline()
        except BrokenPipeError:
            return ""

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _start() -> subprocess.Popen[str]:
    paths = json.dumps([os.path.abspath(entry) for entry in sys.path])
    code = f"import sys; sys.path[:] = {paths}; from {__package__}.worker import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env={**os.environ, **_ENVIRONMENT},
    )  # fmt: skip


@atexit.register
def _rest() -> None:
    while _idle:
        _idle.pop().stop()
