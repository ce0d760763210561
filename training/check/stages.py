"""What stages promise, tried in a tiny run of their own on a made-up world."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...envs import SPLITS, Outcome, Split, Task, TextEnv, register
from ...foundation.checking import Rules, Skip
from ...foundation.errors import UserError
from ..recipe import Recipe
from ..run import train
from ..run_folder.folder import RunFolder
from ..stages.base import Stage

STAGE: Rules[Stage] = Rules()
WORLD = "turnrl/check-v0"
TIMES = ("seconds", "per_second")
"""Parts of the names of metrics that say how long something took."""


class SwitchEnv(TextEnv):
    """Say the word that is shown, twice."""

    instructions = "Answer with the word."

    def _tasks(self, split: Split) -> Sequence[Task]:
        first = 1_000 * SPLITS.index(split)
        return self.seeded(range(first, first + 200), split)

    def _begin(self, task: Task) -> Outcome:
        self.words = [("on", "off")[task.seed >> bit & 1] for bit in range(2)]
        return self._said()

    def _act(self, action: str) -> Outcome:
        if action != self.words.pop(0):
            return Outcome("Wrong.", ended=True, progress=0.0)
        if not self.words:
            return Outcome("Done.", reward=1.0, ended=True, success=True, progress=1.0)
        return self._said()

    def expert_action(self) -> str | None:
        return self.words[0] if self.words else None

    def _said(self) -> Outcome:
        done = 1 - len(self.words) / 2
        return Outcome(f"Say {self.words[0]}.", progress=done, admissible=["on", "off"])


def _recipe(stage: Stage) -> Recipe:
    register(WORLD, SwitchEnv)
    tiny = {"name": "tiny", "layers": 1, "width": 16, "heads": 2, "vocabulary": 300}
    return Recipe.parse(
        {
            "name": "check",
            "env": {"id": WORLD},
            "model": {**tiny, "max_context": 256},
            "agent": {"max_turns": 2, "system": False, "sampling": {"max_tokens": 3}},
            "stages": [stage],
        }
    )


def _trained(stage: Stage) -> list[dict[str, Any]]:
    """Train a run of nothing but this stage, and return its metrics without times."""
    with tempfile.TemporaryDirectory(prefix="turnrl-check-") as folder:
        train(_recipe(stage), run_dir=folder, progress=False)
        run = RunFolder(Path(folder))
        lines = run.metrics.read_text("utf-8").splitlines()
        records: list[dict[str, Any]] = [json.loads(line) for line in lines]
        assert any(run.checkpoints.iterdir()), "it saved no checkpoint"
    return [
        {key: value for key, value in record.items() if not any(word in key for word in TIMES)}
        for record in records
    ]


@STAGE.rule("says what it needs")
def asks(stage: Stage) -> None:
    """Check what a stage asks for: tasks by split, episodes, renamings, steps."""
    wanted = stage.tasks_needed()
    assert set(wanted) <= set(SPLITS), f"it needs tasks of splits that there are not: {wanted}"
    assert all(count >= 0 for count in wanted.values()), "it needs less than no task"
    assert stage.renamings_needed >= 1, "the world as it is counts as a renaming"
    assert stage.episodes_at_once >= 0, "it plays less than no episode at once"
    assert stage.length is None or stage.length >= 0, "it has less than no step"


@STAGE.rule("runs", needs=("says what it needs",))
def runs(stage: Stage) -> str:
    """Check that a recipe of nothing else comes to its end, and leaves records and a checkpoint."""
    try:
        records = _trained(stage)
    except UserError as error:
        raise Skip(f"it cannot stand alone: {error}") from None
    assert records, "it wrote no record"
    strange = {record["stage"] for record in records} - {stage.label}
    assert not strange, f"it wrote records of other stages: {', '.join(sorted(strange))}"
    return f"{len(records)} records"


@STAGE.rule("same seed, same run", needs=("runs",))
def repeats(stage: Stage) -> None:
    """Check that a second run has the same records."""
    try:
        assert _trained(stage) == _trained(stage), "a second run of the same seed differs"
    except UserError as error:
        raise Skip(f"it cannot stand alone: {error}") from None
