"""RunLog: a run directory, written so that it can be read at any moment.

run/recipe.yaml             the resolved recipe
run/metrics.jsonl           one flat JSON object per training step or evaluation
run/episodes/rl-000010.jsonl.gz    one Episode per line
run/checkpoints/{sft,rl,best,last}  Hugging Face folders that can be played
run/result.json             the last table
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..agents.episode import Episode, save_episodes
from ..plugins import UserError
from .recipe import Recipe

Record = dict[str, Any]


class RunLog:
    """Writes one run directory. Raises UserError if it holds another run and `resume` is False."""

    def __init__(self, folder: Path, recipe: Recipe, *, resume: bool = False) -> None:
        self.folder = folder
        self.metrics = folder / "metrics.jsonl"
        if self.metrics.exists() and not resume:
            raise UserError(f"'{folder}' already holds a run: choose another --run, or --resume it")
        if resume and not (folder / "recipe.yaml").exists():
            raise UserError(f"nothing to resume in '{folder}': it has no recipe.yaml")
        (folder / "episodes").mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints").mkdir(exist_ok=True)
        self.text("recipe.yaml", recipe.dump())

    def text(self, name: str, content: str) -> None:
        """Write a file beside its place, then rename it there."""
        target = self.folder / name
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        beside.write_text(content, "utf-8")
        os.replace(beside, target)

    def record(self, stage: str, step: int, kind: str, values: Record) -> Record:
        """Append one line to the metrics."""
        line = {"stage": stage, "step": step, "kind": kind, **values}
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=True) + "\n")
        return line

    def episodes(self, stage: str, step: int, episodes: Sequence[Episode]) -> None:
        """Write the episodes of a step."""
        save_episodes(self.folder / "episodes" / f"{stage}-{step:06d}.jsonl.gz", episodes)

    def forget_after(self, stages: Sequence[str], stage: str, step: int) -> None:
        """Drop the lines a resumed run will write again: those after `step` of `stage`, and the test of that stage."""
        if not self.metrics.exists():
            return
        kept = []
        for text in self.metrics.read_text("utf-8").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            order = stages.index(line["stage"]) if line["stage"] in stages else len(stages)
            tested_again = line["stage"] == stage and line["kind"] == "test"
            if (order, line["step"]) <= (stages.index(stage), step) and not tested_again:
                kept.append(text + "\n")
        self.text("metrics.jsonl", "".join(kept))

    def records(self) -> list[Record]:
        """Every line of the metrics."""
        return (
            [json.loads(line) for line in self.metrics.read_text("utf-8").splitlines()] if self.metrics.exists() else []
        )
