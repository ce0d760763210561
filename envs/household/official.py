"""alfworld/text-v0: the official ALFWorld games, read from where `alfworld-download` puts them::

    env = turnrl.make("alfworld/text-v0", data="~/alfworld")  # default: $ALFWORLD_DATA
    env.counts()  # {'train': 3553, 'valid': 140, 'test': 134}
    text, info = env.reset(options={"task": env.tasks("test")[0]})

valid is valid_seen and test is valid_unseen. Each game is one Task, whose parameters name its task
type and whose seed follows from its path, so the tasks of a part of the data are the same tasks. A
split with fewer games than the official one is played with a warning: only the whole split gives an
ALFWorld result.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...foundation.errors import UserError
from ..task import LazyTasks, Split, Task
from .compiled_format import Compiled
from .env import HouseEnv, explained, grammar_commands
from .games import compiled_official, opened
from .settings import OfficialSettings
from .source import TYPES, package

logger = logging.getLogger(__name__)

FULL: dict[Split, int] = {"train": 3553, "valid": 140, "test": 134}
"""Games of the official splits after the official filter."""
FOLDERS: dict[Split, str] = {"train": "train", "valid": "valid_seen", "test": "valid_unseen"}
_TREE = "json_2.1.1"
_KINDS = {task_type: kind for kind, task_type in TYPES.items()}


@dataclass(frozen=True)
class _Game:
    """A game that the official loader would play."""

    path: Path
    kind: str

    @property
    def seed(self) -> int:
        return _seed(self.path)


class _Games(LazyTasks):
    """One Task per game, in the order of the paths."""

    def __init__(self, env: AlfworldEnv, split: Split, games: Sequence[_Game]) -> None:
        self._id, self._split, self._games = env.id, split, games
        self._shared = {key: value for key, value in env.params.items() if key != "types"}

    def __len__(self) -> int:
        return len(self._games)

    def _at(self, index: int) -> Task:
        game = self._games[index]
        return Task(
            env=self._id,
            params={"types": [game.kind], **self._shared},
            seed=game.seed,
            split=self._split,
        )


class AlfworldEnv(HouseEnv):
    """The games of an ALFWorld data folder.

    Raises UserError where there are no games, and for files that are broken.
    """

    Settings = OfficialSettings
    settings: OfficialSettings

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # How a thing is put down depends on the release of the data: a reset takes it from the
        # game.
        commands = grammar_commands(package().grammar)
        self.instructions = explained(
            {name: said for name, said in commands.items() if name != "putobject"}
        )

    def prepare(
        self, tasks: Sequence[Task], *, workers: int | None = None, progress: bool = True
    ) -> None:
        """Compile these tasks' games that were not played before, with `workers` processes."""
        compiled_official([self._path(task) for task in tasks], workers=workers, progress=progress)

    def counts(self) -> dict[Split, int]:
        """Count the games found per split, whatever `types` says; `FULL` has the official ones."""
        return {split: len(_playable(self._root(), split)) for split in FULL}

    def fingerprint(self, split: Split) -> str:
        """Compute the SHA-256 of a split's game files, paths and bytes, to report with a result."""
        digest, root = hashlib.sha256(), self._root()
        for game in _playable(root, split):
            digest.update(f"{game.path.relative_to(root)}\0".encode())
            digest.update(hashlib.sha256(game.path.read_bytes()).digest())
        return digest.hexdigest()

    def _tasks(self, split: Split) -> Sequence[Task]:
        games = _playable(self._root(), split)
        if len(games) != FULL[split]:
            logger.warning(
                "alfworld/text: %s has %d of %d official games under %s: what is measured on it is"
                " no ALFWorld result",
                *(FOLDERS[split], len(games), FULL[split], self._root()),
            )
        return _Games(self, split, [game for game in games if game.kind in self.settings.chosen])

    def _game(self, task: Task) -> Compiled:
        return opened(compiled_official([self._path(task)])[0])

    def _path(self, task: Task) -> Path:
        root = _root(self.settings.of_task(self.own(task)))
        path = _by_seed(root).get(task.seed)
        if path is None:
            raise UserError(
                f"task '{task.id}': no game under {root} has this seed: take tasks from"
                " env.tasks(split)"
            )
        return path

    def _root(self) -> Path:
        return _root(self.settings)


def _root(settings: OfficialSettings) -> Path:
    """Find the folder json_2.1.1 of the data. Raises UserError where there is none."""
    named = settings.data or os.environ.get("ALFWORLD_DATA")
    place = Path(named).expanduser() if named else Path.home() / ".cache" / "alfworld"
    if not (place / _TREE).is_dir():
        where = (
            "data" if settings.data else "$ALFWORLD_DATA" if named else "ALFWORLD_DATA is not set"
        )
        raise UserError(
            f"alfworld/text: there is no folder {_TREE} in {place} ({where}): run alfworld-download"
            " to get the games, and name its folder in data=... or ALFWORLD_DATA"
        )
    return place / _TREE


def _seed(path: Path) -> int:
    """Compute the seed of a game.

    It comes from split, task and trial in the game's path, so it is the same on every machine.
    """
    return int(hashlib.sha256("/".join(path.parts[-4:-1]).encode()).hexdigest()[:12], 16)


@lru_cache(maxsize=16)
def _by_seed(root: Path) -> dict[int, Path]:
    return {
        _seed(path): path
        for folder in FOLDERS.values()
        for path in (root / folder).glob("*/*/game.tw-pddl")
    }


@lru_cache(maxsize=64)
def _playable(root: Path, split: Split) -> list[_Game]:
    """List the games of a split that the official loader plays.

    They have a known task type, nothing sliced or movable, and are marked solvable.
    """
    found = []
    for path in sorted((root / FOLDERS[split]).glob("*/*/game.tw-pddl")):
        inside = str(path.relative_to(root))
        beside = path.with_name("traj_data.json")
        if "movable" in inside or "Sliced" in inside or not beside.exists():
            continue
        kind = _KINDS.get(_json(beside).get("task_type", ""))
        if kind is not None and _json(path).get("solvable"):
            found.append(_Game(path, kind))
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"alfworld/text: {path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"alfworld/text: {path} holds no JSON object")
    return found
