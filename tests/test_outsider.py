"""A package from outside adds a world, a reward, a credit, a loss, a further batch, a controller, a
diagnostic, a stage and an engine, each in one file, without a line of the tree being changed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent / "outsider"
ADDED = {
    "rewards": "alight",
    "training.credit": "median",
    "training.losses": "episodic",
    "training.auxiliary": "encore",
    "training.controllers": "thaw",
    "training.diagnostics": "longest",
    "training.stages": "shake",
    "agents.engines": "echo",
}
Run = Callable[..., str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The command line in a process that finds the package as if pip had installed it."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(HERE, site / "outsider", ignore=shutil.ignore_patterns("metadata"))
    shutil.copytree(HERE / "metadata", site / "outsider-0.1.dist-info")
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]

    def call(*arguments: str, module: str = "turnrl") -> str:
        done = subprocess.run(
            [sys.executable, *(["-m", module] if module else ["-c"]), *arguments],
            cwd=site,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


def test_what_it_adds_is_shown_beside_what_ships(run: Run) -> None:
    methods: list[dict[str, Any]] = json.loads(run("methods", "--json"))
    shown = {(method["slot"], method["name"]) for method in methods}
    assert set(ADDED.items()) <= shown
    [median] = [method for method in methods if method["name"] == "median"]
    assert "median return of its group" in median["summary"]
    assert any(field["name"] == "scale" for field in median["fields"])
    worlds = json.loads(run("envs", "--json"))
    assert "outsider/lamps-v0" in {world["id"] for world in worlds}


@pytest.mark.parametrize(
    ("subject", "rules"),
    [
        ("outsider/lamps-v0", 12),
        ("rewards:alight", 6),
        ("credit:median", 10),
        ("losses:episodic", 9),
        ("auxiliary:encore", 6),
        ("controllers:thaw", 7),
        ("diagnostics:longest", 7),
        ("stages:shake", 7),
    ],
)
def test_what_it_adds_is_checked_by_the_suite_of_its_slot(
    run: Run, subject: str, rules: int
) -> None:
    results = json.loads(run("check", subject, "--json"))
    assert results["ok"], results
    tried = [result for result in results["results"] if result["status"] == "ok"]
    assert len(tried) >= rules


def test_the_engine_it_adds_is_found_by_name_and_checked(run: Run) -> None:
    code = (
        "import turnrl; from turnrl.agents.engines.base import ENGINES; from outsider.engine import"
        " table, VOCABULARY; engine = ENGINES.build({'name': 'echo'}).make(None, 64);"
        " print(turnrl.check_engine(engine, vocabulary=VOCABULARY, weights=(table(1), table(2))))"
    )
    lines = run(code, module="")
    assert lines.startswith("EchoEngine: ok")


def test_a_recipe_that_names_all_of_it_is_trained(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run("train", str(HERE / "recipe.yaml"), "--run", str(folder))
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert [r["stage"] for r in records if r["kind"] == "test"] == ["sft", "shake", "rl"]
    steps = [r for r in records if r["stage"] == "rl" and r["kind"] == "train"]
    assert len(steps) == 2
    assert all({"reward/alight", "ratio/max", "loss/policy"} <= step.keys() for step in steps)
    assert all("encore/loss/policy" in step for step in steps if step["success"])
    assert [step["factor/entropy"] for step in steps] == [1.0, 0.5]
    assert all(step["longest/tokens"] > 0 for step in steps)
    saved = (folder / "recipe.yaml").read_text("utf-8")
    assert "scale: 2.0" in saved
    assert "skips_zero" not in saved
