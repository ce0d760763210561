"""The front door: each command's answer, and a sentence with exit code 2 for every mistake."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from turnrl.cli import app, main

WORLD = str(Path(__file__).with_name("guess_world.py"))
GUESS = ["guess/number-v0", "--import", WORLD]
RECIPE = {
    "name": "guess",
    "env": {"id": "guess/number-v0"},
    "model": {
        "name": "tiny",
        "layers": 1,
        "width": 32,
        "heads": 2,
        "vocabulary": 300,
        "max_context": 256,
    },
    "agent": {"max_turns": 2, "system": False, "sampling": {"max_tokens": 4}},
    "stages": [
        {"name": "sft", "demonstrations": 4, "epochs": 2, "validation": 2},
        {"name": "rl", "steps": 1, "tasks_per_step": 2, "group_size": 2},
    ],
    "evaluate": {"test_tasks": 2},
}


class Answer:
    """Exit code and output of one command line."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def data(self) -> Any:
        """The standard output as JSON, which must be all there is."""
        return json.loads(self.out)


@pytest.fixture
def turnrl(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command line in this process."""

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        code = main.run([str(argument) for argument in arguments])
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "guess.yaml"
    path.write_text(yaml.safe_dump(RECIPE), "utf-8")
    return path


@pytest.fixture(scope="module")
def trained(recipe: Path) -> Path:
    """A run of the tiny recipe."""
    folder = recipe.parent / "run"
    assert main.run(["train", str(recipe), "--run", str(folder), "--import", WORLD]) == 0
    return folder


COMMANDS = ("init", "envs", "check", "play", "eval", "train", "probe", "methods", "report")


def test_help_names_every_command(turnrl: Any) -> None:
    for arguments in ([], ["--help"]):
        answer = turnrl(*arguments)
        assert answer.code == 0
        assert all(f"\n  {command} " in answer.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_shows_an_example(turnrl: Any, command: str) -> None:
    answer = turnrl(command, "--help")
    assert answer.code == 0
    assert f"Example: turnrl {command}" in answer.out


def test_the_console_script(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("turnrl")
    done = subprocess.run(
        [script, "envs", "nope/none-v0"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.startswith("turnrl: no environment 'nope/none-v0'")
    assert done.stderr.count("\n") == 1
    assert not done.stdout
    assert (
        subprocess.run([script, "--version"], capture_output=True, text=True).stdout.count(".") == 2
    )


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("turnrl")
    done = subprocess.run(
        f"{script} methods --json | head -1",
        shell=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.stdout == "[\n"
    assert not done.stderr


def test_envs_lists_and_describes(turnrl: Any) -> None:
    listed = {one["id"]: one for one in turnrl("envs", "--import", WORLD, "--json").data}
    assert listed["guess/number-v0"] == {
        "id": "guess/number-v0",
        "extra": "",
        "installed": True,
        "parameters": {"broken": False},
    }
    assert listed["textworld/coin-v0"]["extra"] == "textworld"
    assert "guess/number-v0" in turnrl("envs").out
    one = turnrl("envs", *GUESS, "broken=true", "--json").data
    assert one["parameters"] == {"broken": True}
    assert one["fields"] == [
        {
            "name": "broken",
            "type": "bool",
            "limits": [],
            "default": False,
            "description": "every guess pays 7",
        }
    ]
    assert one["splits"] == {"train": 6, "valid": 2, "test": 2}
    assert "Guess the number" in one["instructions"]
    told = turnrl("envs", *GUESS).out
    assert "Guess the number" in told
    assert "broken: bool = false   every guess pays 7" in told
    level = "level: int, at least 1, at most 233 = 5   number of rooms to the coin"
    assert level in turnrl("envs", "textworld/coin-v0").out


def test_check(turnrl: Any) -> None:
    answer = turnrl("check", *GUESS, "--tasks", 2)
    assert answer.code == 0, answer.out
    assert "ok" in answer.out
    broken = turnrl("check", *GUESS, "broken=true", "--tasks", 2, "--json")
    assert broken.code == 1
    assert broken.data["ok"] is False
    assert {"name", "status", "detail"} == set(broken.data["results"][0])


@pytest.mark.parametrize("agent", ["random", "expert"])
def test_watch_a_baseline_play(turnrl: Any, agent: str) -> None:
    answer = turnrl("play", *GUESS, "--agent", agent, "--seed", 3)
    assert answer.code == 0
    assert "Guess [bold]!" in answer.out
    assert "1 > " in answer.out
    if agent == "expert":
        assert "won after 1 turns" in answer.out
        assert "reward +1" in answer.out


def test_play_as_a_human(turnrl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("fly\n3\n"))
    answer = turnrl("play", *GUESS, "--seed", 3)
    assert answer.code == 0
    assert "won after 2 turns" in answer.out
    assert "You may: 0, 1" in answer.out
    assert "refused: rejected" in answer.out


def test_a_human_may_leave(turnrl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("1\n"))
    answer = turnrl("play", *GUESS, "--seed", 3)
    assert answer.code == 0
    assert "Goodbye." in answer.out


def test_eval_a_baseline(turnrl: Any, tmp_path: Path) -> None:
    answer = turnrl(
        "eval", *GUESS, "--agent", "expert", "--json", "--output", tmp_path / "out.json"
    )
    assert answer.code == 0
    assert answer.data["success"] == 1.0
    assert answer.data["n"] == 2
    assert json.loads((tmp_path / "out.json").read_text("utf-8")) == answer.data
    assert "100.0%" in turnrl("eval", *GUESS, "--agent", "expert").out


def test_train_answers_with_its_result(turnrl: Any, recipe: Path, tmp_path: Path) -> None:
    answer = turnrl(
        "train", recipe, "stages.rl.steps=1", "--run", tmp_path / "run", "--import", WORLD, "--json"
    )
    assert answer.code == 0, answer.err
    assert answer.data == json.loads((tmp_path / "run" / "result.json").read_text("utf-8"))
    assert "already holds a run" in turnrl("train", recipe, "--run", tmp_path / "run").err


def test_a_dry_run_writes_nothing(
    turnrl: Any, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = turnrl(
        "train", recipe, "rl.steps=7", "seed=5", "--dry-run", "--json", "--import", WORLD
    )
    assert answer.code == 0, answer.err
    assert answer.data["recipe"]["seed"] == 5
    assert answer.data["recipe"]["stages"][1]["steps"] == 7
    assert answer.data["parameters"] > 0
    assert not list(tmp_path.iterdir())
    assert "seed: 5" in turnrl("train", recipe, "seed=5", "--dry-run").out


def test_a_run_can_be_evaluated_played_and_reported(turnrl: Any, trained: Path) -> None:
    evaluated = turnrl("eval", trained, "--tasks", 2, "--json", "--trust")
    assert evaluated.code == 0, evaluated.err
    assert evaluated.data["env"] == "guess/number-v0"
    played = turnrl("play", *GUESS, "--agent", trained)
    assert played.code == 0, played.err
    assert "after 2 turns" in played.out or "won" in played.out
    reported = turnrl("report", trained)
    assert reported.out.strip() == str(trained / "report.html")
    html = (trained / "report.html").read_text("utf-8")
    assert "Stage rl" in html
    assert "Stage sft" in html
    assert 'class="trained"' in html


def test_init_writes_an_example_that_works(
    turnrl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = turnrl("init", "mine")
    assert answer.code == 0, answer.err
    assert {"mine/custom_env.py", "mine/custom_env.yaml", "mine/recipes/quickstart.yaml"} <= set(
        answer.out.split()
    )
    commands = [line.split()[1:] for line in answer.out.splitlines() if line.startswith("turnrl ")]
    assert [command[0] for command in commands] == ["check", "train"]
    assert turnrl(*commands[0]).code == 0
    done = turnrl(*commands[1], "--dry-run", "--json")
    assert done.code == 0, done.err
    assert done.data["recipe"]["pool"]["imports"] == [str(tmp_path / "mine" / "custom_env.py")]
    for recipe in (tmp_path / "mine" / "recipes").iterdir():
        yaml.safe_load(recipe.read_text("utf-8"))
    again = turnrl("init", "mine")
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "there already" in again.err
    (tmp_path / "file").touch()
    assert "cannot write to 'file'" in turnrl("init", "file").err


def test_methods(turnrl: Any) -> None:
    every = turnrl("methods", "--json").data
    assert {"rewards", "training.credit", "training.losses", "agents.parsers"} <= {
        one["slot"] for one in every
    }
    assert all(one["summary"] for one in every)
    assert all(field["description"] for one in every for field in one["fields"])
    (grpo,) = turnrl("methods", "grpo", "--json").data
    assert "arXiv 2402.03300" in grpo["paper"]
    assert grpo["fields"][0] == {
        "name": "eps",
        "type": "float",
        "limits": ["at least 0"],
        "default": 1e-6,
        "description": "small number added to the group's standard deviation",
    }
    assert {one["slot"] for one in turnrl("methods", "credit", "--json").data} == {
        "training.credit"
    }
    assert "ref_logprobs" in turnrl("methods", "kl").out
    assert "grpo" in turnrl("methods").out


MISTAKES = [
    (["evl"], "No such command 'evl'"),
    (["envs", "--jsn"], "--json"),
    (["check"], "Missing argument 'ID'"),
    (["envs", "textworld/con-v0"], "did you mean 'textworld/coin-v0'?"),
    (["envs", *GUESS, "sise=3"], "sise"),
    (["envs", *GUESS, "broken"], "write key=value"),
    (["envs", *GUESS, "a.b=1"], "write key=value"),
    (["envs", *GUESS, "broken=[1"], "not valid YAML"),
    (["envs", *GUESS, "broken=1", "broken=2"], "given twice"),
    (["envs", "--import", "no_such_module"], "no_such_module"),
    (["envs", "--import", "no_such_file.py"], "no_such_file.py"),
    (["check", "nope/none-v0"], "no environment 'nope/none-v0'"),
    (["check", *GUESS, "--tasks", "0"], "--tasks"),
    (["play", "nope/none-v0", "--agent", "expert"], "no environment 'nope/none-v0'"),
    (["play", *GUESS, "--agent", "expret"], "did you mean 'expert'?"),
    (["play", *GUESS, "--seed", "-1"], "--seed"),
    (["play", *GUESS, "--agent", "expert", "--seed", "6"], "choose --seed below 6"),
    (["play", *GUESS, "--agent", "expert", "--split", "dev"], "no split 'dev'"),
    (["eval", "nope/none-v0"], "no environment 'nope/none-v0'"),
    (["eval", "."], "holds no recipe.yaml"),
    (["eval", *GUESS, "--agent", "rondom"], "did you mean 'random'?"),
    (["eval", *GUESS, "--tasks", "-5"], "--tasks"),
    (["eval", *GUESS, "--agent", "random", "--agent", "expert"], "--agent is given twice"),
    (["eval", *GUESS, "--seed=1", "--seed", "2"], "--seed is given twice"),
    (["eval", *GUESS, "--parser", "tags"], "only a language model has a parser"),
    (["eval", *GUESS, "--agent", "WORLD"], "it is a file"),
    (["eval", *GUESS, "--agent", "tiny"], "no agent 'tiny'"),
    (["eval", *GUESS, "--agent", "no-such-owner/no-such-model"], "could not be fetched"),
    (["train", "RECIPE", "--run", "a", "--run", "b"], "--run is given twice"),
    (["eval", *GUESS, "--tasks", "3"], "ask for 1 to 2"),
    (["eval", *GUESS, "--split", "dev"], "no split 'dev'"),
    (["eval", *GUESS, "--temperature", "-1"], "--temperature"),
    (["eval", *GUESS, "--concurrency", "none"], "--concurrency"),
    (["eval", *GUESS, "--device", "cuda"], "only a language model has a device"),
    (["train", "RECIPE", "model.device=cuda:9", "--dry-run"], "model.device: cuda:9 is not there"),
    (["train", "RECIPE", "model.device=gpu"], "'gpu' is no device"),
    (["eval", *GUESS, "--output", "no/such/folder.json"], "does not exist"),
    (["train", "none.yaml"], "none.yaml"),
    (["train", "."], "cannot read the recipe"),
    (["train", "RECIPE", "rl.stps=3", "--dry-run"], "did you mean 'steps'?"),
    (
        ["train", "RECIPE", "sft.tagger={name: rules}", "--dry-run"],
        "sft: tagger 'rules' needs a parser that knows the",
    ),
    (["train", "RECIPE", "rl.steps=many", "--dry-run"], "steps: Input should be a valid integer"),
    (["train", "RECIPE", "rl.steps", "--dry-run"], "write key=value"),
    (["train", "RECIPE", "env.id=nope/none-v0", "--dry-run"], "no environment 'nope/none-v0'"),
    (["train", "RECIPE", "--resume", "--run", "nowhere"], "nothing to resume"),
    (["probe", "none.yaml"], "none.yaml"),
    (["probe", "RECIPE", "--tasks", "0"], "--tasks"),
    (["probe", "RECIPE", "agent.max_turns=many"], "max_turns"),
    (["methods", "crdit"], "did you mean 'credit'?"),
    (["report", "x" * 5000], "File name too long"),
    (["eval", "x" * 5000], "File name too long"),
    (["train", "RECIPE", "--dry-run", f"model.name={'x' * 5000}"], "File name too long"),
    (["eval", *GUESS, "--output", ""], "it is a folder"),
    (["train", "RECIPE", f"seed={10**26}", "--dry-run"], "seed: Input should be less than"),
    (["envs", "--import", "WRONG"], "wrong.py:1"),
    (["report", "none"], "there is no such folder"),
    (["report", "."], "holds no recipe.yaml"),
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    MISTAKES,
    ids=[" ".join(a).replace(WORLD, "W")[:80] for a, _ in MISTAKES],
)
def test_a_mistake_is_one_sentence(
    turnrl: Any,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    wrong = recipe.with_name("wrong.py")
    wrong.write_text("def broken(:\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    answer = turnrl(
        *(
            {"RECIPE": recipe, "WORLD": WORLD, "WRONG": wrong}.get(argument, argument)
            for argument in arguments
        )
    )
    assert answer.code == 2
    assert message in answer.err
    assert answer.err.startswith("turnrl: ")
    assert answer.err.count("\n") == 1
    assert not answer.out
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "content", ["a: [\n", "- 1\n", "name: x\n", "name: x\nenv: {id: guess/number-v0}\nstages: []\n"]
)
def test_a_bad_recipe_is_one_sentence(turnrl: Any, tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content, "utf-8")
    answer = turnrl("train", path, "--run", tmp_path / "run")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert "bad.yaml" in answer.err


def test_a_recipe_that_is_not_text_is_one_sentence(turnrl: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    assert turnrl("train", path, "--run", tmp_path / "run").code == 2


def test_a_missing_extra_names_its_install_line(
    turnrl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "turnrl.envs.textworld.env", None)
    answer = turnrl("envs", "textworld/coin-v0")
    assert answer.code == 2
    assert "pip install 'turnrl[textworld]'" in answer.err
    assert {one["id"]: one for one in turnrl("envs", "--json").data}["textworld/coin-v0"][
        "parameters"
    ] == {}


def test_params_are_read_as_yaml() -> None:
    pairs = ["level=5", "name=x=y", "flag=true", "list=[1, 2]", "empty="]
    assert app.parse_params(pairs) == {
        "level": 5,
        "name": "x=y",
        "flag": True,
        "list": [1, 2],
        "empty": None,
    }
    assert app.parse_params(None) == {}


def test_probe_fails_where_a_cheat_is_paid_like_a_winner(turnrl: Any, recipe: Path) -> None:
    honest = turnrl("probe", recipe, "--tasks", 3, "--import", WORLD, "--json")
    assert honest.code == 0, honest.err
    assert honest.data["exploits"] == []
    assert honest.data["tasks"] == 3
    assert honest.data["winner"]["shaped_return"] == 1.0
    paid_by_the_turn = "rewards=[{name: outcome}, {name: step_cost, weight: -1}]"
    farmed = turnrl("probe", recipe, paid_by_the_turn, "--tasks", 3, "--import", WORLD, "--json")
    assert farmed.code == 1
    found = {row["player"]: row["exploit"] for row in farmed.data["probes"]}
    assert found["length_padding"] == "stretched"
    shown = turnrl("probe", recipe, paid_by_the_turn, "--tasks", 3, "--import", WORLD)
    assert shown.code == 1
    assert "EXPLOIT" in shown.out
    assert "repetition" in shown.out


def test_a_machine_without_utf_8_trains_and_evaluates_all_the_same(
    recipe: Path, tmp_path: Path
) -> None:
    """Files are UTF-8 on every machine, and what a terminal cannot show is escaped."""
    plain = os.environ | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "POSIX"}
    data = yaml.safe_load(recipe.read_text("utf-8"))
    data["agent"]["sampling"]["stop"] = ["→", "é"]
    file = tmp_path / "guess.yaml"
    file.write_text(yaml.safe_dump(data, allow_unicode=True), "utf-8")
    commands = [
        ["train", file, "--run", tmp_path / "run"],
        ["eval", tmp_path / "run", "--tasks", "2", "--json"],
    ]
    for command in commands:
        line = [sys.executable, "-m", "turnrl", *map(str, command), "--import", WORLD]
        done = subprocess.run(line, env=plain, capture_output=True, text=True, encoding="ascii")
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n"] == 2
    agent = json.loads(
        (tmp_path / "run" / "checkpoints" / "last" / "agent.json").read_text("utf-8")
    )
    assert agent["sampling"]["stop"] == ["→", "é"]
