"""A run that was killed or interrupted goes on in a new process as if nothing had happened."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ..toy_world import recipe, records

WORLD = Path(__file__).parents[1] / "toy_world.py"
DRIVER = Path(__file__).with_name("train_and_die.py")
MODEL = {
    "layers": 2,
    "width": 32,
    "heads": 2,
    "intermediate": 1000,
    "vocabulary": 320,
    "max_context": 128,
    "init_std": 0.15,
}
"""Its weights lie in a file at 40 modulo 64 bytes, where the matrix library rounds a single row
otherwise.
"""
DATA = recipe(
    model=MODEL,
    pool={"imports": [str(WORLD)]},
    sft={"epochs": 6, "checkpoint_every": 2},
    rl={"steps": 4, "checkpoint_every": 2, "save_episodes": 16},
    evaluate={"every": 3, "tasks": 4, "test_tasks": 4},
)


def run(folder: Path, data: dict[str, Any], *options: str) -> tuple[int, str]:
    """Exit code and standard error of a process of its own."""
    file = folder.with_suffix(".json")
    file.write_text(json.dumps(data), "utf-8")
    done = subprocess.run(
        [sys.executable, DRIVER, file, folder, *options], capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


def plays(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The episodes that were kept, without the seconds they took."""
    found = {}
    for path in sorted((folder / "episodes").iterdir()):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            found[path.name] = [json.loads(line) | {"seconds": 0.0} for line in file]
    return found


def same_run(left: Path, right: Path) -> None:
    """Weights, metrics and episodes are equal to the last bit, and nothing is left beside them."""
    assert records(left) == records(right)
    assert plays(left) == plays(right)
    for name in ("sft", "best", "last", "rl"):
        a, b = (
            load_file(folder / "checkpoints" / name / "model.safetensors")
            for folder in (left, right)
        )
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name
    names = [
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        for folder in (left, right)
    ]
    assert names[0] == names[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert run(folder, DATA)[0] == 0
    return folder


def test_a_killed_run_goes_on_bit_for_bit_in_a_new_process(tmp_path: Path, whole: Path) -> None:
    for at in ("sft:3:train", "rl:3:train"):
        options = ["--resume"] if (tmp_path / "run").exists() else []
        assert run(tmp_path / "run", DATA, "--at", at, *options)[0] == -9
    assert run(tmp_path / "run", DATA, "--resume")[0] == 0
    same_run(tmp_path / "run", whole)


def test_an_interrupted_run_says_where_and_loses_nothing(tmp_path: Path, whole: Path) -> None:
    """In the warm start, before an evaluation and in the last test; every resume is cut again."""
    stops = [
        ("sft:3:train", "INT", 130, "at sft update 3"),
        ("rl:3:train", "TERM", 143, "at rl step 3"),
        ("rl:4:eval", "INT", 130, "in the test after rl"),
    ]
    for at, name, code, where in stops:
        options = ["--resume"] if (tmp_path / "run").exists() else []
        done, said = run(tmp_path / "run", DATA, "--at", at, "--signal", name, *options)
        assert done == code
        assert f"interrupted {where}" in said
    lines = records(tmp_path / "run")
    assert run(tmp_path / "run", DATA, "--resume")[0] == 0
    assert records(tmp_path / "run")[: len(lines)] == lines
    same_run(tmp_path / "run", whole)


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    done, said = run(
        tmp_path / "run", DATA, "--at", "sft:1:train", "--signal", "INT", "--times", "2"
    )
    assert done == 130
    assert "interrupted at once" in said
