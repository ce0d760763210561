"""RunLog: writes the folder of a run, one process at a time, so it can be read at any moment."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...agents.episode import Episode, save_episodes
from ...foundation.errors import UserError
from ...foundation.files import explaining_os_errors, finite, tidy, write_text
from ...foundation.manifest import MANIFEST_FILE, digest, sealed, write_manifest
from ..recipe import Recipe
from .folder import RECIPE, RunFolder

Record = dict[str, Any]
DAMAGED = (
    "is damaged, it is not what it was at the last checkpoint: restore it, or delete it to go on"
    " without it"
)


class RunLog:
    """Writes one run directory and holds its lock until `close`.

    Args:
        folder: of the run; it is made.
        resume: go on in a folder that holds a run.

    Raises:
        UserError: the folder holds a run and `resume` is False, or none and `resume` is True;
            another process trains in it; it cannot be written.
    """

    def __init__(self, folder: Path, *, resume: bool = False) -> None:
        self.folder = RunFolder(folder)
        self.metrics = self.folder.metrics
        with explaining_os_errors(folder, "use the folder"):
            if resume and not self.folder.begun:
                raise UserError(f"nothing to resume in '{folder}': it has no {RECIPE}")
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked()
        try:
            with explaining_os_errors(folder):
                self.folder.make()
                for part in (self.folder.episodes, self.folder.checkpoints, folder):
                    tidy(part)
                if not resume and not self.folder.empty:
                    raise UserError(
                        f"'{folder}' already holds a run: choose another --run, or --resume it"
                    )
        except BaseException:
            self.close()
            raise
        self._written = hashlib.sha256()
        self._size = 0
        self._episodes: dict[str, str] = {}

    def _locked(self) -> FileLock:
        lock = FileLock(self.folder.lock)
        with explaining_os_errors(self.folder.path):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise UserError(
                    f"another process trains in '{self.folder}': choose another --run"
                ) from None
        return lock

    def close(self) -> None:
        """Let other processes write here."""
        Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()

    # -- what is written once ----------------------------------------------------------------------

    def recipe(self, recipe: Recipe, changes: Sequence[str] = ()) -> None:
        """Write the recipe as it is now, after the changes that it went through."""
        history = "".join(f"# {change}\n" for change in changes)
        write_text(self.folder.recipe, sealed(history + recipe.dump()))

    def result(self, result: Record) -> None:
        """Write the last table, and the digests of all files beside the checkpoints.

        Checkpoints have digests of their own.
        """
        text = json.dumps(finite(result), indent=1, allow_nan=False) + "\n"
        write_text(self.folder.result, text)
        write_manifest(self.folder.path, self.folder.written)

    def episodes(self, stage: str, step: int, episodes: Sequence[Episode]) -> None:
        """Write the episodes of a step."""
        target = self.folder.episodes_of(stage, step)
        save_episodes(target, episodes)
        self._episodes[target.name] = digest(target)

    # -- the metrics -------------------------------------------------------------------------------

    def record(self, stage: str, step: int, kind: str, values: Record) -> Record:
        """Write one line at the end of the metrics and return it; what is not finite is None."""
        line: Record = finite({"stage": stage, "step": step, "kind": kind, **values})
        data = (json.dumps(line, allow_nan=False) + "\n").encode()
        with explaining_os_errors(self.metrics), self.metrics.open("ab") as file:
            file.write(data)
        self._written.update(data)
        self._size += len(data)
        return line

    def records(self) -> list[Record]:
        """Read every line of the metrics. Raises UserError for one that is no JSON."""
        if not self.metrics.exists():
            return []
        try:
            with explaining_os_errors(self.metrics, "read"):
                return [json.loads(line) for line in self.metrics.read_text("utf-8").splitlines()]
        except ValueError:
            raise UserError(f"'{self.metrics}' {DAMAGED}") from None

    def mark(self) -> dict[str, Any]:
        """Force the metrics onto the disk; return what `go_on` compares.

        Their size and SHA-256, and the SHA-256 of episodes.
        """
        if self._size:
            with explaining_os_errors(self.metrics), self.metrics.open("ab") as file:
                os.fsync(file.fileno())
        return {
            "size": self._size,
            "sha256": self._written.hexdigest(),
            "episodes": dict(self._episodes),
        }

    def go_on(self, mark: Record, stage: str, step: int) -> None:
        """Remove what was written after `mark` was returned.

        Of the episodes, those of steps of `stage` after `step`. Files that somebody removed stay
        away. Raises UserError if one is not what it was then.
        """
        with explaining_os_errors(self.metrics):
            data = self.metrics.read_bytes()[: mark["size"]] if self.metrics.exists() else None
            if data is not None and hashlib.sha256(data).hexdigest() != mark["sha256"]:
                raise UserError(f"'{self.metrics}' {DAMAGED}")
            for name, wanted in mark["episodes"].items():
                path = self.folder.episodes / name
                if path.exists() and digest(path) != wanted:
                    raise UserError(f"'{path}' {DAMAGED}")
            self._episodes = dict(mark["episodes"])
            (self.folder.path / MANIFEST_FILE).unlink(missing_ok=True)
            if data is not None:
                os.truncate(self.metrics, mark["size"])
                self._size = mark["size"]
                self._written.update(data)
            for name, number, path in self.folder.kept_episodes():
                if name in (stage, f"test-{stage}") and number > step:
                    path.unlink()
