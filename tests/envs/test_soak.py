"""Worlds survive the death of their workers: the benchmark itself, for a hundred episodes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_killed_workers_cost_their_episodes_and_nothing_else() -> None:
    command = [
        sys.executable,
        str(SCRIPT),
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


@pytest.mark.parametrize(
    ("episodes", "memory_mb", "grows"),
    [
        (2000, [240.0, 300.0, 320.0, 339.0], False),
        (2000, [240.0, 300.0, 320.0, 341.0], True),
        (2000, [1000.0, 1100.0, 1200.0, 1299.0], False),
        (120, [240.0, 265.0, 280.0, 345.0], False),
    ],
    ids=["within the slack", "beyond it", "within a share", "too few episodes to tell"],
)
def test_memory_that_grows_is_a_fault(
    episodes: int, memory_mb: list[float], grows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from soak import Soak

    played = Soak("coin", episodes, stops=Counter(turn_limit=episodes), memory_mb=memory_mb)
    assert played.faults == (["memory grows"] if grows else [])
