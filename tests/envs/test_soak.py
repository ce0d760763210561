"""Worlds survive the death of their workers: the benchmark itself, for a hundred episodes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_killed_workers_cost_their_episodes_and_nothing_else() -> None:
    command = [
        sys.executable,
        SCRIPT,
        "--families",
        "coin",
        "webshop",
        "search",
        "--episodes",
        "120",
        "--tasks",
        "5",
        "--seed",
        "1",
    ]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE)
    rows = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines()[2:]]
    assert [row[1] for row in rows] == ["coin", "webshop", "search"]
    assert all(int(row[3]) > 0 for row in rows), "some workers were killed"
    assert all("env_error" in row[4] for row in rows)
    assert done.returncode == 0, done.stdout
