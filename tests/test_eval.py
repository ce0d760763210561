"""turnrl eval: a run is measured as it measured itself, and runs no code without trust."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import turnrl
import yaml
from turnrl import Episode, UserError
from turnrl.agents.models import tiny
from turnrl.agents.models.config import ModelConfig
from turnrl.agents.models.load import load
from turnrl.agents.models.save import save
from turnrl.agents.saved_agent import AGENT_FILE, checkpoint_folder, fingerprint, load_agent
from turnrl.cli import main
from turnrl.foundation.manifest import MANIFEST_FILE, write_manifest

WORLD = '''
"""Repeat the animal that is shown, three times."""
import random
from pathlib import Path

import turnrl

WORDS = ("ant", "bee", "cow", "dog")
SEEDS = {"train": range(40), "valid": range(40, 52), "test": range(52, 72)}


class Echo(turnrl.TextEnv):
    instructions = "Repeat the animal."

    def _tasks(self, split):
        return [self.task(seed, split) for seed in SEEDS[split]]

    def _begin(self, task):
        rng = random.Random(task.seed)
        self.words, self.done = [rng.choice(WORDS) for _ in range(2)], 0
        return self.look()

    def look(self):
        over = self.done == len(self.words)
        text = "Done." if over else f"See {self.words[self.done]}"
        listed = [] if over else list(WORDS)
        return turnrl.Outcome(text, reward=float(over), ended=over, success=over, admissible=listed)

    def _act(self, action):
        if action.strip() == self.words[self.done]:
            self.done += 1
            return self.look()
        return turnrl.Outcome(f"No, it is {self.words[self.done]}.", admissible=list(WORDS))

    def expert_action(self):
        return self.words[self.done]


turnrl.register("echo/animals-v0", Echo)
'''
RECIPE: dict[str, Any] = {
    "name": "echo",
    "seed": 3,
    "env": {"id": "echo/animals-v0"},
    "agent": {"max_turns": 5, "system": False, "sampling": {"max_tokens": 5}},
    "rewards": [{"name": "outcome"}],
    "stages": [
        {"name": "sft", "demonstrations": 8, "epochs": 4, "validation": 2},
        {
            "name": "rl",
            "steps": 3,
            "tasks_per_step": 2,
            "group_size": 2,
            "checkpoint_every": 2,
            "average": 0.5,
        },
    ],
    "evaluate": {"test_tasks": 14, "temperature": 0.7},
}
SAME = (
    "success",
    "low",
    "high",
    "n",
    "stops",
    "turns",
    "invalid_rate",
    "tokens",
    "seed",
    "temperature",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run whose context limit cuts episodes."""
    folder = tmp_path_factory.mktemp("echo")
    (folder / "echo_world.py").write_text(WORLD, "utf-8")
    tokenizer = tiny.train_tokenizer(
        ["See ant. See bee. See cow. See dog. No, it is Done."] * 4, 320, ()
    )
    save(
        tiny.build(tokenizer, layers=1, width=32, heads=2, max_context=256),
        tokenizer,
        folder / "model",
    )
    model = {"name": str(folder / "model"), "max_context": 60}
    recipe = RECIPE | {"model": model, "pool": {"imports": [str(folder / "echo_world.py")]}}
    turnrl.train(turnrl.Recipe.parse(recipe), run_dir=folder / "run", progress=False)
    return folder / "run"


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text("utf-8").splitlines())
    return [line for line in lines if line["kind"] == kind]


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main.run([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_an_evaluation_of_a_run_is_its_own_test(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = answer(capsys, "eval", run, "--trust", "--json")
    assert code == 0, err
    measured, (before, tested) = json.loads(out), records(run, "test")
    assert measured["stops"]["context_limit"] > 0
    assert {key: measured[key] for key in SAME} == {key: tested[key] for key in SAME}
    assert (measured["max_context"], measured["max_turns"]) == (60, 5)
    code, out, _ = answer(
        capsys, "eval", run, "--trust", "--json", "--agent", run / "checkpoints" / "sft"
    )
    earlier = json.loads(out)
    assert {key: earlier[key] for key in SAME} == {key: before[key] for key in SAME}
    # Told otherwise, it is otherwise.
    code, out, _ = answer(
        capsys,
        "eval",
        run,
        "--trust",
        "--json",
        "--tasks",
        3,
        "--max-turns",
        2,
        "--seed",
        4,
        "--temperature",
        0,
        "--max-context",
        128,
        "--max-tokens",
        2,
    )
    other = json.loads(out)
    assert [other[key] for key in ("n", "max_turns", "seed", "temperature")] == [3, 2, 4, 0]
    assert other["turns"] <= 2
    assert other["tokens"] <= 4
    assert "context_limit" not in other["stops"]


def test_a_checkpoint_alone_keeps_the_limits_of_its_run(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "checkpoints" / "rl", tmp_path / "moved")
    loaded = load_agent(tmp_path / "moved")
    assert (loaded.agent.engine.max_context, loaded.max_turns, loaded.temperature) == (60, 5, 0.7)
    played: list[Episode] = []
    again = turnrl.evaluate(
        "echo/animals-v0",
        str(tmp_path / "moved"),
        tasks=14,
        seed=3,
        progress=False,
        episodes=played,
    )
    tested = records(run, "test")[-1]
    assert {key: getattr(again, key) for key in SAME} == {key: tested[key] for key in SAME}
    assert len(played) == 14


def test_other_players_are_measured_under_the_limits_of_the_run(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = answer(capsys, "eval", run, "--agent", "random", "--trust", "--json")
    assert code == 0, err
    assert json.loads(out)["max_turns"] == 5
    assert json.loads(out)["n"] == 14


@pytest.mark.parametrize(
    "present",
    [
        ("second", "best", "last", "first", "sft"),
        ("best", "rl", "last", "sft"),
        ("rl", "last", "sft"),
        ("last", "sft"),
        ("sft",),
    ],
)
def test_the_weights_of_a_run_are_those_that_it_tested(
    tmp_path: Path, present: tuple[str, ...]
) -> None:
    """The best of a stage, else its last, else what the stage before left behind."""
    ranks = {"second": [2, 1], "best": [1, 2], "last": [1, 0], "first": [1, 1], "rl": [1, 1]}
    for name in present:
        folder = tmp_path / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        write_manifest(folder, rank=ranks.get(name, [0, 1]))
    assert checkpoint_folder(tmp_path).name == present[0]


FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


@pytest.mark.parametrize("name", [*FILES, AGENT_FILE])
def test_an_incomplete_checkpoint_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "run" / "checkpoints" / "rl"
    shutil.copytree(run / "checkpoints" / "rl", target)
    shutil.copy(run / "recipe.yaml", tmp_path / "run")
    assert load_agent(target).max_turns == 5
    (target / name).unlink()
    with pytest.raises(UserError, match=f"{name}'? is missing"):
        load_agent(target)
    if name != "config.json":
        (target / name).touch()
        with pytest.raises(UserError, match=f"{name}' is damaged"):
            load_agent(target)


def foreign(run: Path, folder: Path) -> None:
    """A model that no run made: nothing says which files belong to it."""
    shutil.copytree(run / "checkpoints" / "rl", folder)
    (folder / AGENT_FILE).unlink()
    (folder / MANIFEST_FILE).unlink()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_model_without_its_tokenizer_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    foreign(run, tmp_path / "model")
    assert len(load(ModelConfig(name=str(tmp_path / "model"))).tokenizer) > 250
    (tmp_path / "model" / name).unlink()
    with pytest.raises(UserError, match=f"{name}.* is missing"):
        load(ModelConfig(name=str(tmp_path / "model")))


def test_a_model_without_some_of_its_weights_is_refused(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    foreign(run, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"no weights for .*up_proj.weight"):
        load_agent(tmp_path / "model")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_said_to_be_so(
    run: Path, tmp_path: Path, value: float
) -> None:
    from safetensors.torch import load_file, save_file

    foreign(run, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["model.norm.weight"][0] = value
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model.norm.weight holds NaN or infinity"):
        load_agent(tmp_path / "model")


CODE = """
from pathlib import Path
from typing import Literal
from turnrl.agents.context.full_history import FullHistory
from turnrl.agents.parsers.line import Line
from turnrl.rewards.outcome import Outcome
Path(__file__).with_name("was_run").touch()
class MyContext(FullHistory):
    name: Literal["my_context"] = "my_context"
class MyParser(Line):
    name: Literal["my_parser"] = "my_parser"
class MyReward(Outcome):
    name: Literal["my_reward"] = "my_reward"
"""


@pytest.mark.parametrize(("key", "cls"), [("context", "MyContext"), ("parser", "MyParser")])
@pytest.mark.parametrize("as_file", [True, False])
def test_a_checkpoint_runs_no_code_without_trust(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, cls: str, as_file: bool
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = f"theirs_{key}_{as_file}"
    (tmp_path / f"{module}.py").write_text(CODE, "utf-8")
    target = tmp_path / "theirs"
    shutil.copytree(run / "checkpoints" / "rl", target)
    (target / MANIFEST_FILE).unlink()
    saved = json.loads((target / AGENT_FILE).read_text("utf-8"))
    saved[key] = {"name": f"{tmp_path / f'{module}.py' if as_file else module}:{cls}"}
    (target / AGENT_FILE).write_text(json.dumps(saved), "utf-8")
    with pytest.raises(UserError, match=f"names code to run, '.*{module}.*--trust"):
        load_agent(target)
    with pytest.raises(UserError, match="--trust"):
        turnrl.evaluate("echo/animals-v0", str(target), progress=False)
    assert main.run(["play", "echo/animals-v0", "--agent", str(target)]) == 2
    assert not (tmp_path / "was_run").exists()
    assert (
        turnrl.evaluate("echo/animals-v0", str(target), tasks=2, trust=True, progress=False).n == 2
    )
    assert (tmp_path / "was_run").exists()


def test_a_run_imports_nothing_without_trust(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "run"
    shutil.copytree(run, theirs)
    (tmp_path / "theirs.py").write_text(CODE, "utf-8")
    recipe = yaml.safe_load((theirs / "recipe.yaml").read_text("utf-8"))
    recipe["rewards"] = [{"name": f"{tmp_path / 'theirs.py'}:MyReward"}]
    recipe["pool"]["imports"].append(str(tmp_path / "theirs.py"))
    (theirs / "recipe.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    code, _, err = answer(capsys, "eval", theirs)
    assert code == 2
    assert "theirs.py for its worlds: run that code with --trust, or name yours by --import" in err
    code, out, err = answer(
        capsys, "eval", theirs, "--import", run.parent / "echo_world.py", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["n"] == 14
    assert not (tmp_path / "was_run").exists()
    # Neither report nor an evaluation looks at the classes of rewards at all.
    assert answer(capsys, "report", theirs)[0] == 0
    assert not (tmp_path / "was_run").exists()
    assert answer(capsys, "eval", theirs, "--trust")[0] == 0
    assert (tmp_path / "was_run").exists()


def test_code_that_comes_with_a_model_is_not_run(run: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    foreign(run, model)
    (model / "theirs.py").write_text(
        f"open({str(tmp_path / 'was_run')!r}, 'w')\nclass Model: pass\nclass Config: pass\n"
    )
    config = json.loads((model / "config.json").read_text("utf-8"))
    config |= {
        "model_type": "theirs",
        "auto_map": {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"},
    }
    (model / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_agent(model)
    assert not (tmp_path / "was_run").exists()


def test_episodes_of_an_evaluation_can_be_kept(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "played.jsonl.gz"
    code, out, err = answer(
        capsys,
        "eval",
        run,
        "--trust",
        "--json",
        "--episodes",
        file,
        "--output",
        tmp_path / "result.json",
    )
    assert code == 0, err
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        episodes = [Episode.from_json(json.loads(line)) for line in lines]
    result = json.loads(out)
    assert [one.success for one in episodes].count(True) == round(result["success"] * result["n"])
    assert len({one.task.id for one in episodes}) == 14
    assert json.loads((tmp_path / "result.json").read_text("utf-8")) == result


@pytest.mark.parametrize("option", ["--output", "--episodes"])
def test_what_cannot_be_written_is_said_before_anything_is_played(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    for target, part in (
        (tmp_path, "it is a folder"),
        (tmp_path / "none" / "x.json", "does not exist"),
        ("/proc/x.json", "cannot write"),
        (tmp_path / ("x" * 300), "cannot write"),
    ):
        code, out, err = answer(capsys, "eval", run, "--trust", option, target)
        assert (code, out) == (2, "")
        assert part in err
        assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_plain_model_plays_as_the_options_say(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign(run, tmp_path / "model")
    plays = ["eval", "echo/animals-v0", "--agent", tmp_path / "model", "--tasks", 4, "--json"]
    code, out, err = answer(capsys, *plays)
    assert code == 0, err
    usual = json.loads(out)
    assert (usual["max_turns"], usual["max_context"], usual["temperature"], usual["seed"]) == (
        50,
        256,
        1.0,
        0,
    )
    more = [
        "--max-turns",
        3,
        "--max-tokens",
        6,
        "--max-context",
        128,
        "--parser",
        "tags",
        "--temperature",
        0.5,
    ]
    code, out, err = answer(capsys, *plays, *more, "--context", "{name: sliding_window, turns: 1}")
    assert code == 0, err
    other = json.loads(out)
    assert (other["max_turns"], other["max_context"], other["temperature"]) == (3, 128, 0.5)
    assert other["turns"] <= 3
    assert other["invalid_rate"] == 1
    assert other["tokens"] <= 18
    for option, part in (
        (["--parser", "tgas"], "did you mean 'tags'"),
        (["--context", "[1"], "not valid YAML"),
    ):
        code, _, err = answer(capsys, *plays, *option)
        assert code == 2
        assert part in err


def test_worlds_are_imported_in_the_process_that_evaluates(tmp_path: Path) -> None:
    (tmp_path / "another.py").write_text(
        WORLD.replace("echo/animals-v0", "echo/another-v0"), "utf-8"
    )
    result = turnrl.evaluate(
        "echo/another-v0", "expert", tasks=2, imports=[str(tmp_path / "another.py")], progress=False
    )
    assert (result.n, result.success) == (2, 1.0)


def test_the_test_plays_of_a_run_are_kept_and_shown(run: Path) -> None:
    for stage, done in (("sft", None), ("rl", 3)):
        (file,) = (run / "episodes").glob(f"test-{stage}-*.jsonl.gz")
        assert done is None or file.name == f"test-{stage}-{done:06d}.jsonl.gz"
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            episodes = [Episode.from_json(json.loads(line)) for line in lines]
        (tested,) = [line for line in records(run, "test") if line["stage"] == stage]
        assert len(episodes) == tested["n"] == 14
        assert sum(one.success for one in episodes) == round(tested["success"] * 14)


def test_the_digest_tells_checkpoints_apart(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "checkpoints" / "rl", tmp_path / "copy")
    assert fingerprint(tmp_path / "copy") == fingerprint(run / "checkpoints" / "rl")
    with (tmp_path / "copy" / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"\x55")
    assert fingerprint(tmp_path / "copy") != fingerprint(run / "checkpoints" / "rl")
