"""Makers: processes that make files, a JSON job per line in, a JSON answer per line out::

    makers = Makers("making games", [sys.executable, "worker.py"])
    job = BuildJob(path, "game 7", lambda made: {"seed": 7, "path": str(made)})
    makers.ensure([job], cache_dir("games"))

What must not happen in a process that plays (compilers, planners, libraries that change global
state) happens in one of them. An answer has ``ok``; where that is false, ``error`` says why, and
``impossible`` whether it was asked for something that cannot be. A process that died is replaced.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

from ...foundation.cache import move_into_place, private_folder, tell_damaged, whole
from ...foundation.errors import UserError
from ...foundation.processes import Child
from ...foundation.progress import bar

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
"""What iterates over sets of strings while it makes a file depends on the hash seed."""


class GameError(RuntimeError):
    """A game could not be made, and not by the user's mistake: a compiler or a worker failed."""


@dataclass(frozen=True)
class BuildJob:
    """A file or folder to be made."""

    path: Path
    name: str
    """How errors call the game."""
    order: Callable[[Path], dict[str, Any]]
    """What to ask for, given where it is to be written."""
    beside: tuple[str, ...] = ()
    """Suffixes of files that are made with it and moved before it."""
    users: bool = False
    """What goes wrong is the user's mistake, if the answer does not say whose."""


class Makers:
    """The processes of one kind.

    Args:
        what: what they do, for the progress bar.
        command: the command that starts one.
        keep: how many idle ones wait for the next call; they should end by themselves after a
            while.
    """

    def __init__(self, what: str, command: Sequence[str], *, keep: int = 0) -> None:
        self._what, self._command, self._keep = what, command, keep
        self._idle: list[_Maker] = []
        self._making = threading.Lock()

    def ensure(
        self, jobs: Sequence[BuildJob], home: Path, *, workers: int | None, progress: bool
    ) -> list[Path]:
        """Do the jobs whose path is not `whole`, and return all paths.

        `workers` processes at a time do them (None: one per CPU).

        Whatever is made is made in `home`, a folder on the file system of the paths, and moved.

        Raises:
            UserError: what a job asks for cannot be made, or the cache cannot be used.
            GameError: a process failed. In both cases all other jobs are done nevertheless.
        """
        paths = [job.path for job in jobs]
        if all(whole(path) for path in paths):
            return paths
        with (
            self._making
        ):  # Threads of one process that want the same file would make it once each.
            missing = list({job.path: job for job in jobs if not whole(job.path)}.values())
            tell_damaged([job.path for job in missing])
            todo: queue.SimpleQueue[BuildJob] = queue.SimpleQueue()
            for job in missing:
                todo.put(job)
            failures: list[Exception] = []
            with bar(self._what, len(missing), progress and len(missing) > 1) as advance:
                threads = [
                    threading.Thread(
                        target=self._work, args=(todo, home, failures, advance), daemon=True
                    )
                    for _ in range(min(workers or os.cpu_count() or 1, len(missing)))
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        if failures:
            raise failures[0]
        return paths

    def _work(
        self,
        todo: queue.SimpleQueue[BuildJob],
        home: Path,
        failures: list[Exception],
        advance: Callable[[int], None],
    ) -> None:
        """Feed one process with jobs until none is left."""
        # Popped without a look: several threads reach for the idle ones at once.
        try:
            maker = self._idle.pop()
        except IndexError:
            maker = _Maker(self._command)
        while True:
            try:
                job = todo.get_nowait()
            except queue.Empty:
                break
            try:
                _do(job, maker, home)
            except Exception as error:
                failures.append(error)
            advance(1)
        if len(self._idle) < self._keep:
            self._idle.append(maker)
        else:
            maker.stop()


def _do(job: BuildJob, maker: _Maker, home: Path) -> None:
    with private_folder(home) as folder:
        made = folder / job.path.name
        answer = maker.ask(job.order(made))
        if not answer["ok"]:
            kind = UserError if answer.get("impossible", job.users) else GameError
            raise kind(f"cannot make the game {job.name}: {answer['error']}")
        move_into_place(made, job.path, job.beside)


class _Maker:
    """A process, started when it is first asked and again when it is gone."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._child: Child | None = None

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """Send an order to the process and return its answer.

        A process that ended while it was idle is replaced once.
        """
        for fresh in (False, True):
            if fresh or self._child is None or self._child.process.poll() is not None:
                self.stop()
                environment = {**os.environ, **ENVIRONMENT}
                self._child = Child(self._command, stdin=PIPE, stdout=PIPE, environment=environment)
            line = _exchange(self._child.process, json.dumps(order))
            if line:
                return dict(json.loads(line))
        assert self._child is not None
        self._child.end(patience=1.0)
        return {"ok": False, "error": f"its worker process died: {self._child.last_line()}"}

    def stop(self) -> None:
        """End the maker's process, if there is one."""
        if self._child is not None:
            self._child.end()
            self._child = None


def _exchange(process: Popen[bytes], text: str) -> bytes:
    """Write a line to a process and return its answer, or nothing if it is gone."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(text.encode() + b"\n")
        process.stdin.flush()
        return process.stdout.readline()
    except BrokenPipeError:
        return b""
