"""A run survives the end of its process: the benchmark itself, with a dozen kills."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.timeout(900)
def test_a_run_that_was_ended_at_any_moment_goes_on_to_the_bit_and_leaves_nothing() -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "--kills",
        "12",
        "--signals",
        "6",
        "--operations",
        "kinds",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines()[2:5]]
    assert [row[1] for row in rows] == [
        "killed at random moments",
        "interrupted",
        "killed before operations",
    ]
    stopped, resumes = ([int(row[column]) for row in rows] for column in (2, 3))
    assert stopped[:2] == [12, 6]
    assert stopped[2] > 40
    assert resumes[0] > 6
    assert resumes[1:] == stopped[1:]
