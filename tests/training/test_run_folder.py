"""The folder of a run: one process at a time, never begun anew over a run, damage by name."""

from __future__ import annotations

import ast
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import turnrl
import yaml
from turnrl import Recipe, UserError, evaluate
from turnrl.agents.models.config import ModelConfig
from turnrl.agents.models.load import load
from turnrl.agents.models.save import save
from turnrl.agents.saved_agent import SavedAgent
from turnrl.foundation.files import new_folder, tidy, write_text
from turnrl.foundation.manifest import check_manifest, write_manifest
from turnrl.training.run import train
from turnrl.training.run_folder.checkpoint import TrainerState, write
from turnrl.training.run_folder.log import RunLog
from turnrl.training.run_folder.protocol import Protocol
from turnrl.training.run_folder.report import write_report

from ..logged import logged
from ..toy_world import recipe, records

DATA = recipe(
    sft={"epochs": 4},
    rl={"steps": 2, "checkpoint_every": 1},
    evaluate={"every": 1, "tasks": 4, "test_tasks": 4},
)


def run(folder: Path, data: dict[str, Any] = DATA, **options: Any) -> dict[str, Any]:
    return train(Recipe.parse(data), run_dir=folder, progress=False, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    run(folder)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def with_changes(**changes: Any) -> dict[str, Any]:
    """The recipe with keys of the rl stage, 'sft.key's and blocks changed."""
    data: dict[str, Any] = json.loads(json.dumps(DATA))
    for key, value in changes.items():
        if key in Recipe.model_fields:
            data[key] = data.get(key, {}) | value if isinstance(value, dict) else value
        else:
            data["stages"][1][key] = value
    return data


# -- one process at a time -------------------------------------------------------------------------


def test_a_second_process_is_refused_and_a_dead_one_does_not_block(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    hold = "import sys, time; from pathlib import Path; "
    hold += "from turnrl.training.run_folder.log import RunLog; "
    hold += "log = RunLog(Path(sys.argv[1])); print(1, flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", hold, folder], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(UserError, match="another process trains in"):
            run(folder)
        assert not (folder / "recipe.yaml").exists()
    finally:
        process.kill()
        process.communicate()
    log = RunLog(folder)
    with pytest.raises(UserError, match="another process trains in"):
        RunLog(folder, resume=False)
    log.close()
    assert not (folder / ".lock").exists()


# -- begun anew or not -----------------------------------------------------------------------------


def test_a_run_whose_last_checkpoint_is_lost_is_not_begun_anew(copy: Path) -> None:
    (copy / "checkpoints" / "last" / "trainer.pt").unlink()
    before = contents(copy)
    with pytest.raises(UserError, match=r"last/trainer\.pt' is missing"):
        run(copy, resume=True)
    assert contents(copy) == before
    shutil.rmtree(copy / "checkpoints" / "last")
    with pytest.raises(UserError, match="last' is missing"):
        run(copy, resume=True)
    assert contents(copy).items() <= before.items()
    with pytest.raises(UserError, match="already holds a run"):
        run(copy)


def test_a_run_that_was_killed_before_anything_was_saved_begins_anew(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(finished / "recipe.yaml", folder)
    train(Recipe.parse(DATA), run_dir=folder, resume=True)
    assert "the run begins anew" in capsys.readouterr().err
    assert records(folder) == records(finished)


# -- another recipe --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, [r"seed 0 -> 1"]),
        (
            {"rewards": [{"name": "outcome"}, {"name": "progress"}]},
            [r"rewards \[\"outcome\"\] -> "],
        ),
        (
            {"rewards": [{"name": "outcome", "weight": 2.0}]},
            [r"rewards\.outcome\.weight 1\.0 -> 2\.0"],
        ),
        ({"credit": {"name": "gae"}}, [r"rl\.credit\.name \"grpo\" -> \"gae\""]),
        ({"model": {"width": 64}, "seed": 3}, [r"model\.width 32 -> 64", r"seed 0 -> 3"]),
        ({"env": {"length": 2}}, [r"env\.length 3 -> 2"]),
        ({"steps": 1}, ["has done 2 steps of rl, more than steps=1"]),
        ({"stages": DATA["stages"][1:]}, ["began with the stages sft, rl"]),
    ],
)
def test_a_run_does_not_go_on_with_a_recipe_that_would_make_it_another(
    copy: Path, change: dict[str, Any], named: list[str]
) -> None:
    before = contents(copy)
    for pattern in named:
        with pytest.raises(UserError, match=pattern):
            run(copy, with_changes(**change), resume=True)
    assert contents(copy) == before


def test_what_may_change_is_taken_over_and_written_down(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = with_changes(
        steps=4,
        optim={"lr": 0.001, "weight_decay": 0.25},
        pool={"workers": 3},
        engine={"max_batch": 16},
    )
    train(Recipe.parse(changed), run_dir=copy, resume=True)
    said = capsys.readouterr().err
    text = (copy / "recipe.yaml").read_text("utf-8")
    for line in (
        "rl.steps 2 -> 4",
        "rl.optim.lr 0.005 -> 0.001",
        "rl.optim.weight_decay 0.0 -> 0.25",
        "engine.max_batch 64 -> 16",
    ):
        assert line in said
        assert f"# after rl 2: {line}" in text
    assert Recipe.load(copy / "recipe.yaml") == Recipe.parse(changed)
    groups = torch.load(copy / "checkpoints/last/trainer.pt", weights_only=True)["parts"][
        "optimizer"
    ]["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.25, 0.0}
    train(Recipe.parse(changed), run_dir=copy, resume=True)
    assert (copy / "recipe.yaml").read_text("utf-8") == text


# -- damage ----------------------------------------------------------------------------------------


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "flipped": lambda data: (
        data[: len(data) // 3] + bytes([data[len(data) // 3] ^ 1]) + data[len(data) // 3 + 1 :]
    ),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize(
    "name", ["trainer.pt", "model.safetensors", "tokenizer.json", "agent.json", "manifest.json"]
)
def test_a_damaged_checkpoint_is_named_and_not_used(copy: Path, name: str, how: str) -> None:
    file = copy / "checkpoints" / "last" / name
    file.write_bytes(DAMAGE[how](file.read_bytes()))
    before = contents(copy)
    with pytest.raises(UserError, match=rf"last/{name}' is damaged"):
        run(copy, resume=True)
    assert contents(copy) == before
    if name != "trainer.pt":
        with pytest.raises(UserError, match=rf"last/{name}' is damaged"):
            evaluate("toy/lights-v0", str(copy / "checkpoints" / "last"), progress=False)


def test_a_state_of_another_format_is_refused_by_name(copy: Path) -> None:
    folder = copy / "checkpoints" / "last"
    about = check_manifest(folder)
    assert about is not None
    state = torch.load(folder / "trainer.pt", weights_only=True)
    torch.save(state | {"format": 1}, folder / "trainer.pt")
    write_manifest(folder, **{k: v for k, v in about.items() if k not in ("files", "sha256")})
    before = contents(copy)
    with pytest.raises(UserError, match=r"trainer\.pt' was written by another version of turnrl"):
        run(copy, resume=True)
    assert contents(copy) == before


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_metrics_are_named_and_damage_after_the_last_checkpoint_is_mended(
    copy: Path, how: str
) -> None:
    file = copy / "metrics.jsonl"
    whole = file.read_bytes()
    file.write_bytes(DAMAGE[how](whole))
    with pytest.raises(UserError, match=r"metrics\.jsonl' is damaged"):
        run(copy, resume=True)
    file.write_bytes(whole[:-20] + b"\xff")
    (copy / "recipe.yaml").write_bytes(b"\xff")
    (copy / "result.json").write_bytes(b"{")
    run(copy, resume=True)
    assert Recipe.load(copy / "recipe.yaml") == Recipe.parse(DATA)
    assert json.loads((copy / "result.json").read_text())["after"]
    file.unlink()
    run(copy, resume=True)
    assert [line["kind"] for line in records(copy)] == ["test"]


def test_damaged_episodes_are_named_and_a_report_says_what_it_cannot_vouch_for(copy: Path) -> None:
    file = copy / "episodes" / "rl-000001.jsonl.gz"
    file.write_bytes(b"")
    with pytest.raises(UserError, match=r"rl-000001\.jsonl\.gz' is damaged"):
        run(copy, resume=True)
    result = copy / "result.json"
    result.write_bytes(DAMAGE["flipped"](result.read_bytes()))
    with logged("is not whole") as caught:
        write_report(copy)
    said = " ".join(caught)
    page = (copy / "report.html").read_text("utf-8")
    for name in ("rl-000001.jsonl.gz", "result.json"):
        assert f"{name} is damaged" in said
        assert f"{name} is damaged" in page
    (copy / "manifest.json").unlink()
    metrics = copy / "metrics.jsonl"
    metrics.write_bytes(DAMAGE["flipped"](metrics.read_bytes()))
    with logged(r"metrics\.jsonl is damaged"):
        write_report(copy)


def test_a_recipe_that_is_not_what_the_run_wrote_is_not_played(copy: Path) -> None:
    file = copy / "recipe.yaml"
    text = file.read_text("utf-8")
    file.write_text(text.replace("length: 3", "length: 2"), "utf-8")
    with pytest.raises(UserError, match=r"recipe\.yaml' is damaged"):
        Protocol.read(copy)
    file.write_text(file.read_text("utf-8").partition("\n")[2], "utf-8")
    assert Protocol.read(copy).params["length"] == 2
    assert yaml.safe_load(text) == yaml.safe_load(Recipe.parse(DATA).dump())


def test_weights_that_are_not_finite_are_never_saved_over_good_ones(copy: Path) -> None:
    last = copy / "checkpoints" / "last"
    before, loaded = contents(copy), load(ModelConfig(name=str(last)))
    state = TrainerState(1, 3, {"average": [torch.tensor([1.0, float("inf")])]})
    agent = SavedAgent.read(last)
    with pytest.raises(
        UserError, match=r"state\.average\.0 is not finite, so no checkpoint is written"
    ):
        write(last, loaded.model, loaded.tokenizer, agent, state)
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[3, 3] = float("nan")
    with pytest.raises(UserError, match=r"weights\.\S+ is not finite"):
        write(last, loaded.model, loaded.tokenizer, agent)
    assert contents(copy) == before
    save(loaded.model, loaded.tokenizer, copy / "spoilt")
    with pytest.raises(UserError, match=r"the checkpoint is spoilt: \S+ holds NaN"):
        load(ModelConfig(name=str(copy / "spoilt")))


# -- what the machine refuses ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["a file", "inside a file", "a name too long", "no folder can be made there"]
)
def test_a_folder_that_cannot_be_used_is_told_in_one_sentence(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    folder = {
        "a file": tmp_path / "file",
        "inside a file": tmp_path / "file" / "run",
        "a name too long": tmp_path / ("x" * 300),
        "no folder can be made there": Path("/proc/self/turnrl"),
    }[place]
    with pytest.raises(UserError, match=r"^cannot .* '.*': \w"):
        run(folder)
    with pytest.raises(UserError):
        run(folder, resume=True)


def test_a_full_disk_is_told_in_one_sentence_and_leaves_nothing_behind(copy: Path) -> None:
    """A limit on the size of files stands for the disk: the system refuses in the same way."""
    before, points = contents(copy), {path.name for path in (copy / "checkpoints").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
        with pytest.raises(UserError, match=r"^cannot write '.*': File too large$"):
            run(copy, with_changes(steps=3), resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name for path in (copy / "checkpoints").iterdir()} == points
    assert not list(copy.rglob(".*"))
    after = contents(copy)
    assert {
        name for name in before if "checkpoints" in name and before[name] != after[name]
    } == set()
    run(copy, with_changes(steps=3), resume=True)


# -- files and folders that are whole or not there -------------------------------------------------


def test_what_a_killed_process_left_is_removed_and_what_it_was_replacing_comes_back(
    tmp_path: Path,
) -> None:
    pid = os.getpid()
    for name in (f".last.{pid}.new", f".last.{pid}.old", f".best.{pid}.old", "best"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which").write_text(name)
    (tmp_path / f".recipe.yaml.{pid}.new").write_text("half")
    (tmp_path / ".keep.new").write_text("somebody else's")
    tidy(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".keep.new", "best", "last"]
    assert (tmp_path / "last" / "which").read_text() == f".last.{pid}.old"
    assert (tmp_path / "best" / "which").read_text() == "best"


def fill_and_fail(folder: Path, failure: Exception) -> None:
    with new_folder(folder) as beside:
        (beside / "b").write_text("new")
        raise failure


def test_a_file_or_folder_that_fails_on_the_way_is_what_it_was(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with new_folder(tmp_path / "folder") as beside:
        (beside / "a").write_text("old")
    for failure, told in (
        (OSError(28, "No space left on device"), UserError),
        (ValueError("a bug"), ValueError),
    ):
        with pytest.raises(told):
            fill_and_fail(tmp_path / "folder", failure)
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "file", "\ud800")
    assert contents(tmp_path) == {"file": b"old", "folder/a": b"old"}


@pytest.mark.parametrize("at", range(40))
def test_a_signal_in_the_middle_of_a_replacement_leaves_one_whole_folder(
    tmp_path: Path, at: int
) -> None:
    """The interpreter may raise KeyboardInterrupt between any two operations on files."""
    path, count = tmp_path / "folder", 0
    with new_folder(path) as beside:
        (beside / "which").write_text("old")

    def interrupt(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir") and str(
            tmp_path
        ) in str(arguments[0]):
            count += 1
            if count == at + 1:
                raise KeyboardInterrupt

    child = os.fork()
    if not child:
        sys.addaudithook(interrupt)
        try:
            with new_folder(path) as beside:
                (beside / "which").write_text("new")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]
    assert (path / "which").read_text() in ("old", "new")


def said(source: str) -> Iterator[str]:
    """The string constants of a source that are no docstrings."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


def test_nobody_else_knows_the_names_of_files_and_folders() -> None:
    home = Path(str(turnrl.__file__)).parent
    names = re.compile(
        r"recipe\.yaml|metrics\.jsonl|result\.json|report\.html|^checkpoints(/|$)|^episodes/"
    )
    for room in ("foundation", "envs", "agents", "rewards", "training", "cli"):
        for file in (home / room).rglob("*.py"):
            known = [text for text in said(file.read_text("utf-8")) if names.search(text)]
            assert not known or file.parts[-2:] == ("run_folder", "folder.py"), (file, known)


@pytest.mark.parametrize("key", ["seed", "pool", "evaluate", "evaluate.tasks", "agent.max_turns"])
def test_a_run_is_not_measured_by_a_recipe_that_lacks_a_key(copy: Path, key: str) -> None:
    """Today's default need not be that of the run."""
    file = copy / "recipe.yaml"
    Protocol.read(copy), Protocol.read(copy / "checkpoints" / "last")
    data = yaml.safe_load(file.read_text("utf-8"))
    block, _, inner = key.rpartition(".")
    (data[block] if block else data).pop(inner)
    file.write_text(yaml.safe_dump(data), "utf-8")
    with pytest.raises(UserError, match=rf"recipe.yaml' is damaged: .*{inner}"):
        Protocol.read(copy)
