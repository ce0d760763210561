"""Game files on demand: made in parallel, cached, safe against other processes that make the same ones::

    generate([GameKey("coin", {"level": 5}, seed=7)])[0]
    # ~/.cache/turnrl/textworld/1.7.0/coin-1f0c9a2b3d4e/7.z8, with 7.json beside it

Of the two files of a game the .json is moved to its place first: where there is a .z8 the game is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...plugins import UserError
from ..bar import bar
from ..cache import cache_dir, private
from .params import job_for

TEXTWORLD = version("textworld")
WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
"""TextWorld iterates over sets of strings while it writes a game, so its bytes depend on the hash seed."""
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
        return home() / f"{self.family}-{digest}" / f"{self.seed}.z8"

    def __str__(self) -> str:
        params = ", ".join(f"{key}={value}" for key, value in sorted(self.params.items()))
        return f"{self.family}({params}) with seed {self.seed}"


def home() -> Path:
    """The folder of this TextWorld version's games."""
    return cache_dir("textworld", TEXTWORLD)


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
    jobs: queue.SimpleQueue[tuple[Path, GameKey]] = queue.SimpleQueue()
    for item in missing.items():
        jobs.put(item)
    failures: list[Exception] = []
    with bar("making TextWorld games", len(missing), progress) as advance:
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
            advance(1)
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


def _one(worker: subprocess.Popen[str], path: Path, key: GameKey) -> None:
    """Make one game and move it into the cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with private(home()) as folder:
        made = folder / "game.z8"
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
