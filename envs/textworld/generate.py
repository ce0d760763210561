"""Game files on demand: made in parallel, cached, safe against other processes that make the same ones::

    generate([GameKey("coin", {"level": 5}, seed=7)])[0]
    # ~/.cache/turnrl/textworld/1.7.0/coin-1f0c9a2b3d4e/7.z8, with 7.json beside it

A file is written elsewhere on the same file system and renamed, the .json before the .z8: where there is a .z8 the
game is complete. Two processes that make one game both succeed, because both make the same bytes. What a killed
process left behind is removed when the next game is made.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID

from ...plugins import UserError
from .params import job_for

TEXTWORLD = version("textworld")
WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
"""TextWorld iterates over sets of strings while it writes a game, so its bytes depend on the hash seed."""
STALE_SECONDS = 24 * 3600
"""No game takes that long to make."""
_generating = threading.Lock()


class GameError(RuntimeError):
    """A game could not be made for a reason that is not the user's: a compiler or a worker failed."""


@dataclass(frozen=True)
class GameKey:
    """What determines a game's bytes, together with TextWorld's version. `params` must be complete and valid."""

    family: str
    params: Mapping[str, Any]
    seed: int

    @property
    def path(self) -> Path:
        """Where the .z8 is, or will be."""
        text = json.dumps(self.params, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return cache_dir() / f"{self.family}-{digest}" / f"{self.seed}.z8"

    def __str__(self) -> str:
        params = ", ".join(f"{key}={value}" for key, value in sorted(self.params.items()))
        return f"{self.family}({params}) with seed {self.seed}"


def cache_dir() -> Path:
    """The folder of this TextWorld version's games, under $XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "turnrl" / "textworld" / TEXTWORLD


def generate(keys: Sequence[GameKey], *, workers: int | None = None, progress: bool = True) -> list[Path]:
    """Make the games that are missing and return the .z8 of each.

    Args:
        keys: the games; repeats cost nothing.
        workers: processes to use at most (None: one per CPU).
        progress: show a bar on stderr if more than one game is missing.

    Raises:
        UserError: if TextWorld finds no game with these parameters.
        GameError: if a compiler or a worker process failed. The other games are made nevertheless.
    """
    paths = [key.path for key in keys]
    if all(path.exists() for path in paths):
        return paths
    with _generating:  # Threads of one process that start the same task would make it once each.
        missing = {path: key for path, key in zip(paths, keys, strict=True) if not path.exists()}
        if missing:
            _make(missing, workers or os.cpu_count() or 1, progress and len(missing) > 1)
    return paths


def _make(missing: Mapping[Path, GameKey], workers: int, progress: bool) -> None:
    _sweep()
    jobs: queue.SimpleQueue[tuple[Path, GameKey]] = queue.SimpleQueue()
    for item in missing.items():
        jobs.put(item)
    failures: list[Exception] = []
    with _bar(len(missing), progress) as advance:
        threads = [
            threading.Thread(target=_work, args=(jobs, failures, advance), daemon=True)
            for _ in range(min(workers, len(missing)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


@contextmanager
def _bar(total: int, visible: bool) -> Iterator[Any]:
    if not visible:
        yield lambda: None
        return
    with Progress(console=Console(stderr=True)) as bar:
        task: TaskID = bar.add_task("making TextWorld games", total=total)
        yield lambda: bar.advance(task)


def _work(jobs: queue.SimpleQueue[tuple[Path, GameKey]], failures: list[Exception], advance: Any) -> None:
    """Feed one worker process until no job is left; a worker that dies is replaced."""
    worker: subprocess.Popen[str] | None = None
    try:
        while True:
            try:
                path, key = jobs.get_nowait()
            except queue.Empty:
                return
            try:
                if worker is None or worker.poll() is not None:
                    worker = _start()
                _one(worker, path, key)
            except Exception as error:
                failures.append(error)
            advance()
    finally:
        if worker is not None:
            worker.kill()
            worker.communicate()


def _start() -> subprocess.Popen[str]:
    # -P and a path instead of -m: the worker imports TextWorld only, not turnrl and what that imports.
    command = [sys.executable, "-P", str(Path(__file__).with_name("worker.py"))]
    environment = {**os.environ, **WORKER_ENVIRONMENT}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )


def _sweep() -> None:
    """Remove the folders of generations that were killed."""
    for folder in cache_dir().glob("tmp-*"):
        node, _, pid = folder.name.removeprefix("tmp-").rpartition("-")[0].rpartition("-")
        try:
            stale = time.time() - folder.stat().st_mtime > STALE_SECONDS
        except FileNotFoundError:
            continue
        # Another machine may share the cache, and its processes cannot be asked after.
        if stale or (node == platform.node() and pid.isdecimal() and not _alive(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _one(worker: subprocess.Popen[str], path: Path, key: GameKey) -> None:
    """Make one game and move it into the cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = f"tmp-{platform.node()}-{os.getpid()}-"
    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix=owner) as folder:
        made = Path(folder) / "game.z8"
        job = {**job_for(key.family, key.params, key.seed), "path": str(made)}
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(json.dumps(job) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise GameError(f"cannot make the game {key}: its worker process ended with code {worker.wait()}")
        answer = json.loads(line)
        if not answer["ok"]:
            kind = UserError if answer["impossible"] else GameError
            raise kind(f"cannot make the game {key}: {answer['error']}")
        os.replace(made.with_suffix(".json"), path.with_suffix(".json"))
        os.replace(made, path)
