"""A run that was killed goes on in a new process as if nothing had happened."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ..toy_world import recipe, records

WORLD = Path(__file__).parents[1] / "toy_world.py"
DRIVER = Path(__file__).with_name("train_and_die.py")
MODEL = {"layers": 2, "width": 32, "heads": 2, "intermediate": 1000, "vocabulary": 320, "max_context": 128}
"""Its weights lie in a file at 40 modulo 64 bytes, where the matrix library rounds a single row otherwise."""


def run(folder: Path, data: dict[str, Any], *options: str) -> int:
    """The exit code of a process of its own."""
    file = folder.with_suffix(".json")
    file.write_text(json.dumps(data | {"pool": {"imports": [str(WORLD)]}}), "utf-8")
    done = subprocess.run([sys.executable, DRIVER, file, folder, *options], capture_output=True, text=True)
    assert done.returncode in (0, -9), done.stderr
    return done.returncode


def plays(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The episodes that were kept, without the seconds they took."""
    found = {}
    for path in sorted((folder / "episodes").iterdir()):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            found[path.name] = [json.loads(line) | {"seconds": 0.0} for line in file]
    return found


def same_run(left: Path, right: Path) -> None:
    """Weights, metrics and episodes are equal to the last bit."""
    assert records(left) == records(right)
    assert plays(left) == plays(right)
    for name in ("sft", "last", "rl"):
        a, b = (load_file(folder / "checkpoints" / name / "model.safetensors") for folder in (left, right))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name


def test_a_run_that_was_killed_in_rl_goes_on_bit_for_bit_in_a_new_process(tmp_path: Path) -> None:
    data = recipe(
        model=MODEL | {"init_std": 0.15}, sft={"epochs": 6}, rl={"steps": 5, "checkpoint_every": 2, "save_episodes": 16}
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(whole, data) == 0
    assert run(parts, data, "--die", "rl:3:train") == -9
    assert run(parts, data, "--resume") == 0
    same_run(parts, whole)
