"""The examples do what they say, run as a user runs them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, folder: Path) -> list[str]:
    shutil.copytree(EXAMPLES, folder / "examples")
    command = [sys.executable, f"examples/{name}.py"]
    return subprocess.run(
        command, cwd=folder, check=True, text=True, stdout=subprocess.PIPE
    ).stdout.splitlines()


def test_a_world_of_ones_own_is_checked_learnt_and_measured(tmp_path: Path) -> None:
    source = (EXAMPLES / "custom_env.py").read_text().splitlines()
    assert len(source) < 60, "the docs promise so"
    lines = run("custom_env", tmp_path)
    assert lines[0] == "corridor/doors-v0: ok"
    assert not any(line.startswith(("skipped", "failed")) for line in lines)
    success = dict(line.split() for line in lines[-3:])
    assert float(success["random"]) < 0.05
    assert float(success["expert"]) == 1
    assert float(success["runs/corridor"]) > 0.8
    assert (tmp_path / "runs" / "corridor" / "metrics.jsonl").is_file()


def test_an_environment_of_gymnasium_is_wrapped(tmp_path: Path) -> None:
    lines = run("wrap_env", tmp_path)
    assert lines[0] == "lake/walk-v0: ok"
    assert 0 <= float(lines[-1]) < 0.2
