"""What a recipe names is found from the recipe, and a run that was made of it from anywhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from turnrl import Recipe, UserError
from turnrl.training.paths import anchored

MINE = """
from typing import Literal
from turnrl.agents.parsers.line import Line
from turnrl.rewards.outcome import Outcome
from turnrl.training.credit.grpo import Grpo

class MyReward(Outcome):
    name: Literal["my_reward"] = "my_reward"

class MyCredit(Grpo):
    name: Literal["my_credit"] = "my_credit"

class MyParser(Line):
    name: Literal["my_parser"] = "my_parser"
"""
TOY = Path(__file__).parents[1] / "guess_world.py"


def recipe_in(folder: Path, module: str) -> Path:
    """A recipe with plug-ins and a world of its own beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine_here.py").write_text(MINE, "utf-8")
    shutil.copy(TOY, folder / "own_world.py")
    data = {
        "name": "own",
        "env": {"id": "guess/number-v0"},
        "model": {
            "name": "tiny",
            "layers": 1,
            "width": 32,
            "heads": 2,
            "vocabulary": 300,
            "max_context": 256,
        },
        "agent": {
            "max_turns": 2,
            "system": False,
            "sampling": {"max_tokens": 4},
            "parser": {"name": f"{module}:MyParser"},
        },
        "pool": {"imports": [module.replace("mine_here", "own_world")]},
        "rewards": [{"name": f"{module}:MyReward", "weight": 2.0}],
        "stages": [
            {
                "name": "rl",
                "steps": 1,
                "tasks_per_step": 2,
                "group_size": 2,
                "credit": {"name": f"{module}:MyCredit"},
            }
        ],
        "evaluate": {"test_tasks": 2},
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(data), "utf-8")
    return folder / "own.yaml"


def turnrl(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "turnrl", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("module", ["mine_here.py", "./mine_here.py", "mine_here"])
def test_a_run_of_own_plugins_goes_on_and_is_measured_from_another_folder(
    tmp_path: Path, module: str
) -> None:
    recipe_in(tmp_path / "project", module)
    there, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = turnrl(tmp_path, "train", "project/own.yaml", "--run", "run")
    assert done.returncode == 0, done.stderr
    saved = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text("utf-8"))
    assert saved["pool"]["imports"] == [str(there / "own_world.py")]
    assert saved["rewards"][0]["name"] == f"{there / 'mine_here.py'}:MyReward"
    done = turnrl(elsewhere, "train", "../run/recipe.yaml", "--resume", "--run", "../run")
    assert done.returncode == 0, done.stderr
    done = turnrl(elsewhere, "eval", "../run", "--trust")
    assert done.returncode == 0, done.stderr
    assert "2" in done.stdout


def test_what_stands_on_the_command_line_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe_in(tmp_path / "project", "mine_here.py")
    shutil.copy(path.with_name("mine_here.py"), tmp_path / "other.py")
    monkeypatch.chdir(tmp_path)
    loaded = Recipe.load(
        "project/own.yaml", ["rl.credit={name: other.py:MyCredit}", "pool.imports=[worlds.py]"]
    )
    assert loaded.model_dump()["stages"][0]["credit"]["name"] == f"{tmp_path / 'other.py'}:MyCredit"
    assert loaded.rewards[0].recipe_key == f"{tmp_path / 'project' / 'mine_here.py'}:MyReward"
    assert loaded.importing("more.py", "json").pool.imports == (
        f"{tmp_path}/worlds.py",
        f"{tmp_path}/more.py",
        "json",
    )
    assert loaded.importing("more.py").importing("more.py") == loaded.importing("more.py")


def test_paths_are_resolved_once_and_nothing_else_is_touched(tmp_path: Path) -> None:
    data: dict[str, Any] = {
        "name": "a:b",
        "model": {"name": "x.py:y"},
        "rewards": [
            {"name": "gate", "gates": [{"name": "mine.py:A"}]},
            {"name": "json:B"},
            3,
            {"name": 4},
        ],
        "pool": {"imports": ["w.py", "json", 3, "/abs/w.py"]},
        "stages": "nonsense",
    }
    once = anchored(data, tmp_path)
    assert once["rewards"][0]["gates"][0]["name"] == f"{tmp_path}/mine.py:A"
    assert once["rewards"][1:] == data["rewards"][1:]
    assert once["pool"]["imports"] == [f"{tmp_path}/w.py", "json", 3, "/abs/w.py"]
    assert (once["model"], once["name"], once["stages"]) == (
        data["model"],
        data["name"],
        data["stages"],
    )
    assert anchored(once, Path("/")) == once


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("def broken(:\n", "mine_here.py:1"),
        ("import json\nraise RuntimeError('no\\nluck')\n", "RuntimeError: no luck"),
        ("import no_such_module_at_all\n", "no_such_module_at_all"),
        ("import sys; sys.exit(3)\n", "SystemExit: 3"),
        ("x = 3\n", "has no 'MyParser'"),
        ("MyParser = 3\n", "is not a subclass of Parser"),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_sentence(
    tmp_path: Path, content: str, part: str
) -> None:
    path = recipe_in(tmp_path, "mine_here.py")
    (tmp_path / "mine_here.py").write_text(content, "utf-8")
    with pytest.raises(UserError) as error:
        Recipe.load(path)
    assert part in str(error.value)
    assert "mine_here.py" in str(error.value)
    assert "\n" not in str(error.value)
