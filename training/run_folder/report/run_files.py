"""RunFiles: what a run directory holds, read so that a run in progress or a damaged file still
gives a report.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ....agents.episode import Episode
from ....foundation.errors import UserError
from ..folder import RunFolder
from .damage import damage

Record = dict[str, Any]


@dataclass(slots=True)
class RunFiles:
    """A run directory; `notes` says what could not be read."""

    folder: RunFolder
    recipe: dict[str, Any]
    recipe_text: str
    records: list[Record]
    """Lines of metrics.jsonl, the last one of each (stage, kind, split, step) only: a resumed run
    repeats some.
    """
    result: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> RunFiles:
        """Read a run directory. Raises UserError if `folder` is none."""
        place = RunFolder.of(folder)
        file = place.recipe
        text = file.read_text("utf-8", errors="replace")
        try:
            recipe = yaml.safe_load(text)
        except yaml.YAMLError:
            recipe = None
        if not isinstance(recipe, dict):
            raise UserError(f"'{file}' is damaged: it is not a mapping in YAML")
        run = cls(place, recipe, text, [], {})
        run.records = run._records()
        run.result = run._result()
        run.notes += damage(place)
        return run

    @property
    def stages(self) -> list[str]:
        """Name the stages that left metrics, in order."""
        return list(dict.fromkeys(str(record["stage"]) for record in self.records))

    def of_stage(self, stage: str) -> list[Record]:
        """List the records of a stage, by step."""
        return sorted(
            (r for r in self.records if r["stage"] == stage), key=lambda record: record["step"]
        )

    def episode_files(self, stage: str) -> list[tuple[int, Path]]:
        """List (step, file) of the episodes that a stage kept, by step."""
        return [(step, path) for name, step, path in self.folder.kept_episodes() if name == stage]

    def episode_stages(self) -> list[str]:
        """Name the stages that kept episodes; those with metrics first."""
        names = {name for name, _, _ in self.folder.kept_episodes()}
        return [s for s in self.stages if s in names] + sorted(names - set(self.stages))

    def episodes(self, path: Path) -> Iterator[Episode]:
        """Yield the episodes of a file, up to where it is damaged."""
        try:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                for line in file:
                    yield Episode.from_json(json.loads(line))
        except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError) as error:
            self.notes.append(
                f"{path.relative_to(self.folder.path)} is damaged ({type(error).__name__}); what"
                " comes after is not shown"
            )

    def _records(self) -> list[Record]:
        path = self.folder.metrics
        if not path.is_file():
            self.notes.append(f"there is no {path.name} yet")
            return []
        kept: dict[tuple[Any, ...], Record] = {}
        lines, damaged = path.read_text("utf-8", errors="replace").splitlines(), 0
        for number, line in enumerate(lines, start=1):
            record = _parse(line)
            if record is not None:
                kept[record["stage"], record.get("kind"), record.get("split"), record["step"]] = (
                    record
                )
            # A run in progress may be writing its last line right now.
            elif line.strip() and number < len(lines):
                damaged += 1
        if damaged:
            self.notes.append(f"{damaged} lines of {path.name} cannot be read and are left out")
        return list(kept.values())

    def _result(self) -> dict[str, Any]:
        path = self.folder.result
        if not path.is_file():
            return {}
        try:
            result = json.loads(path.read_text("utf-8"))
        except ValueError:
            result = None
        if isinstance(result, dict):
            return result
        self.notes.append(f"{path.name} cannot be read")
        return {}


def _parse(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    good = (
        isinstance(record, dict)
        and isinstance(record.get("step"), int)
        and isinstance(record.get("stage"), str)
    )
    return record if good else None


def number(value: Any) -> float | None:
    """Return `value` as a finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
