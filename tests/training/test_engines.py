"""Runs with an engine that is not the trainer's module: it learns by pushes alone."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from turnrl import Recipe
from turnrl.agents.engines.base import Capabilities, Engine
from turnrl.agents.engines.torch import TorchEngineConfig
from turnrl.agents.models.load import Loaded
from turnrl.training.run import train
from turnrl.training.run_folder.report.run_files import RunFiles

from ..toy_world import recipe, records


class ApartConfig(TorchEngineConfig):
    """The torch engine on a copy of the model, as one in another process has it."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, shares_module=False)

    def make(self, loaded: Loaded, max_context: int | None) -> Engine:
        own = Loaded(copy.deepcopy(loaded.model), loaded.tokenizer, loaded.description)
        return super().make(own, max_context)


def trained(folder: Path, **changes: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Metrics, and a digest of the weights of each checkpoint."""
    train(Recipe.parse(recipe(**changes)), run_dir=folder, progress=False)
    return records(folder), {
        file.parent.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.glob("checkpoints/*/model.safetensors")
    }


def test_an_engine_with_its_own_weights_trains_the_same_run(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "sft": {"epochs": 12, "validate_every": 4},
        "rl": {"steps": 3, "average": 0.5, "episodes_every": 1},
        "evaluate": {"every": 1, "tasks": 4, "test_tasks": 4},
    }
    shared = trained(tmp_path / "shared", **changes)
    apart = trained(tmp_path / "apart", engine=ApartConfig(), **changes)
    assert apart == shared
    assert {"last", "rl", "sft"} <= shared[1].keys()
    assert len(set(shared[1].values())) > 2
    saved = Recipe.load(tmp_path / "apart" / "recipe.yaml").engine
    assert saved.recipe_key.endswith("test_engines:ApartConfig")

    run = RunFiles.read(tmp_path / "apart")
    versions = {
        step: {turn.version for episode in run.episodes(path) for turn in episode.turns}
        for step, path in run.episode_files("rl")
    }
    # A turn carries the version of the weights that sampled it: those before its step.
    assert versions == {1: {0}, 2: {1}, 3: {2}}
