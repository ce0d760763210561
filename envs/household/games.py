"""Game files on demand: made and compiled by worker processes, kept in the cache::

    folder = generated([("heat", 7)])[0]  # .../heat/7 with game.tw-pddl and traj_data.json
    path = compiled_official([game_file])[0]  # the same for a game of the user's, by its digest

Where a path exists it is complete. One idle worker is kept for the next call; it ends by itself
after half a minute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...foundation.cache import cache_dir
from ...foundation.processes import python
from ..making.makers import BuildJob, Makers
from .compiled_format import FORMAT, Compiled
from .problem import GENERATOR
from .source import versions


def generated(
    keys: Sequence[tuple[str, int]], *, workers: int | None = None, progress: bool = False
) -> list[Path]:
    """Return folders of games by (task type, seed), and make the missing ones. Raises GameError."""
    home = cache_dir("household", f"v{GENERATOR}.{FORMAT}-{versions()}")

    def order(kind: str, seed: int) -> Callable[[Path], dict[str, Any]]:
        return lambda made: {"make": {"kind": kind, "seed": seed}, "folder": str(made)}

    jobs = [
        BuildJob(home / kind / str(seed), f"{kind} with seed {seed}", order(kind, seed))
        for kind, seed in keys
    ]
    return _makers().ensure(jobs, home, workers=workers, progress=progress)


def compiled_official(
    files: Sequence[Path], *, workers: int | None = None, progress: bool = False
) -> list[Path]:
    """Return files of compiled data, one per game file, and make the missing ones.

    A game is known by its bytes. Raises UserError for a broken file.
    """
    home = cache_dir("household", "official", f"{FORMAT}-{versions()}")

    def order(file: Path) -> Callable[[Path], dict[str, Any]]:
        return lambda made: {"compile": str(file), "out": str(made)}

    def name(file: Path) -> str:
        return f"{hashlib.sha256(file.read_bytes()).hexdigest()[:32]}.json.gz"

    jobs = [BuildJob(home / name(file), str(file), order(file), users=True) for file in files]
    return _makers().ensure(jobs, home, workers=workers, progress=progress)


@lru_cache(maxsize=64)
def opened(path: Path) -> Compiled:
    """Read a compiled game, which all instances of this process that play it share."""
    return Compiled.read(path)


@lru_cache(maxsize=1)
def _makers() -> Makers:
    command = python(f"from {__package__}.worker import main; main()")
    return Makers("making household games", command, keep=1)
