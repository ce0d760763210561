"""The quickstart, shortened, on vLLM itself: `make test-vllm` runs it, after `make setup-vllm`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from turnrl import Recipe
from turnrl.training.run import train
from turnrl.training.run_folder.report.run_files import RunFiles

from ..toy_world import records

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
STEPS = 3


def shortened(engine: dict[str, Any]) -> Recipe:
    """A minute of the quickstart; attention heads of 32 numbers, which vLLM has kernels for."""
    data = yaml.safe_load(RECIPE.read_text("utf-8"))
    sft, rl = data["stages"]
    sft |= {"symmetries": 4, "validation": 4}
    rl |= {"steps": STEPS, "tasks": 16, "tasks_per_step": 2, "group_size": 4, "episodes_every": 1}
    data["model"] |= {"heads": 3}
    data["env"] |= {"level": 4}
    data["evaluate"] |= {"tasks": 6, "every": STEPS, "test_tasks": 0}
    return Recipe.parse(data | {"engine": engine})


def test_the_quickstart_trains_on_vllm_as_it_does_on_the_torch_engine(tmp_path: Path) -> None:
    found = {}
    for name in ("torch", "vllm"):
        train(shortened({"name": name}), run_dir=tmp_path / name, progress=False)
        found[name] = [r for r in records(tmp_path / name) if r["kind"] == "train"]
    served = [r for r in found["vllm"] if r["stage"] == "rl"]
    assert len(served) == STEPS
    for record in served:
        assert record["engine_gap/max"] < 1e-4
        assert not [key for key in record if key.startswith("lost/") and record[key]]
    # Equal seeds give equal tokens, so the first step is the same step up to rounding; what is
    # learnt from it differs in its last bits, and in time so does what is played.
    first = {name: next(r for r in found[name] if r["stage"] == "rl") for name in found}
    assert first["torch"]["return"] > 0, "the warm start taught something"
    for key in ("episodes", "return", "success", "tokens/trained", "loss/policy", "grad_norm"):
        assert first["vllm"][key] == pytest.approx(first["torch"][key], abs=1e-3), key

    run = RunFiles.read(tmp_path / "vllm")
    versions = {
        step: {turn.version for episode in run.episodes(path) for turn in episode.turns}
        for step, path in run.episode_files("rl")
    }
    assert versions == {step: {step - 1} for step in range(1, STEPS + 1)}
    saved = {
        hashlib.sha256(file.read_bytes()).hexdigest()
        for file in (tmp_path / "vllm").glob("checkpoints/*/model.safetensors")
    }
    assert len(saved) > 1, "it learnt something"
