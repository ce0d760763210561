"""Game files on demand: made in parallel, cached, safe against others that make the same::

    generate([GameKey("coin", {"level": 5}, seed=7)])[0]
    # ~/.cache/turnrl/textworld/1.7.0/coin-1f0c9a2b3d4e/7.z8, with 7.json beside it

Of the two files of a game the .json is moved to its place first: where there is a .z8 the game is
complete.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...foundation.cache import cache_dir
from ..making.makers import BuildJob, Makers
from .settings import job_for

TEXTWORLD = version("textworld")
# -P and a path instead of -m: the worker imports TextWorld only, not turnrl and what that imports.
_makers = Makers(
    "making TextWorld games", [sys.executable, "-P", str(Path(__file__).with_name("worker.py"))]
)


@dataclass(frozen=True)
class GameKey:
    """All that determines a game's bytes, together with TextWorld's version.

    `params` must be complete and valid.
    """

    family: str
    params: Mapping[str, Any]
    seed: int

    @property
    def path(self) -> Path:
        """Return the place of the game's .z8, made or not."""
        text = json.dumps(self.params, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return home() / f"{self.family}-{digest}" / f"{self.seed}.z8"

    def __str__(self) -> str:
        params = ", ".join(f"{key}={value}" for key, value in sorted(self.params.items()))
        return f"{self.family}({params}) with seed {self.seed}"


def home() -> Path:
    """Return the folder of this TextWorld version's games."""
    return cache_dir("textworld", TEXTWORLD)


def generate(
    keys: Sequence[GameKey], *, workers: int | None = None, progress: bool = True
) -> list[Path]:
    """Make the games that are missing and return the .z8 of each.

    Args:
        keys: the games; repeats cost nothing.
        workers: processes to use at most (None: one per CPU).
        progress: show a bar on stderr if more than one game is missing.

    Raises:
        UserError: if TextWorld finds no game with these parameters.
        GameError: if a compiler or a worker process failed. The other games are made nevertheless.
    """
    return _makers.ensure([_job(key) for key in keys], home(), workers=workers, progress=progress)


def _job(key: GameKey) -> BuildJob:
    def order(made: Path) -> dict[str, Any]:
        return {**job_for(key.family, key.params, key.seed), "path": str(made)}

    return BuildJob(key.path, str(key), order, beside=(".json",))
