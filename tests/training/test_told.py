"""A run's words: plain lines where nobody looks on, JSON that is JSON, and how to go on."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import IO, Any, cast

import pytest
import torch
import yaml
from turnrl import Recipe
from turnrl.cli import catalogue, main
from turnrl.foundation.files import explaining_os_errors
from turnrl.training.clock import Clock
from turnrl.training.interrupt import Interrupts
from turnrl.training.learner.local import Learner
from turnrl.training.run import train
from turnrl.training.run_folder.log import Record, RunLog

from ..toy_world import LightsEnv, recipe, records

DATA = recipe(sft={"epochs": 3}, rl={"steps": 2, "checkpoint_every": 1}, evaluate={"test_tasks": 2})


def written(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(DATA), "utf-8")
    return path


def interrupting(monkeypatch: pytest.MonkeyPatch, stage: str, step: int, signum: int) -> None:
    """The process gets a signal when that record is written."""
    record = RunLog.record

    def wrapped(self: RunLog, at: str, number: int, kind: str, values: Record) -> Record:
        line = record(self, at, number, kind, values)
        if (at, number, kind) == (stage, step, "train"):
            os.kill(os.getpid(), signum)
        return line

    monkeypatch.setattr(RunLog, "record", wrapped)


@pytest.mark.parametrize(
    ("stage", "signum", "code", "where"),
    [("sft", signal.SIGINT, 130, "sft update 1"), ("rl", signal.SIGTERM, 143, "rl step 1")],
)
def test_an_interrupted_command_says_how_to_go_on_and_does(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    signum: int,
    code: int,
    where: str,
) -> None:
    arguments = ["train", str(written(tmp_path)), "rl.steps=2", "--run", str(tmp_path / "my run")]
    with monkeypatch.context() as patched:
        interrupting(patched, stage, 1, signum)
        assert main.run(arguments) == code
    said = capsys.readouterr().err
    assert f"turnrl: interrupted at {where}; go on with: turnrl train " in said
    assert said.rstrip().endswith(f"rl.steps=2 --run '{tmp_path / 'my run'}' --resume")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert main.run([*arguments, "--resume"]) == 0
    assert (
        f"going on after {where.replace('update ', '').replace('step ', '')}"
        in capsys.readouterr().err
    )


def test_a_signal_while_the_world_is_made_ends_a_run_that_was_being_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = LightsEnv.__init__

    def interrupted(self: LightsEnv, **options: Any) -> None:
        made(self, **options)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(LightsEnv, "__init__", interrupted)
    assert main.run(["train", str(written(tmp_path)), "--run", str(tmp_path / "run")]) == 130
    said = capsys.readouterr().err
    assert "turnrl: interrupted while the run was prepared; go on with: turnrl train" in said


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_when_the_first_has_ended_the_run_leaves_the_words_of_the_first(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    signum: int,
    code: int,
) -> None:
    """The handlers of the run are gone by then, and Python's own raises KeyboardInterrupt."""
    leave = Interrupts.__exit__

    def left(self: Interrupts, *problem: object) -> None:
        leave(self, *problem)
        if self.signum:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Interrupts, "__exit__", left)
    interrupting(monkeypatch, "rl", 1, signum)
    assert main.run(["train", str(written(tmp_path)), "--run", str(tmp_path / "run")]) == code
    assert "turnrl: interrupted at rl step 1; go on with: turnrl train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"), [(EOFError("a file ended"), ""), (KeyboardInterrupt(), "interrupted")]
)
def test_an_end_of_a_file_is_no_interrupt(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    said: str,
) -> None:
    def ended(wanted: str | None) -> None:
        raise error

    monkeypatch.setattr(catalogue, "methods", ended)
    if said:
        assert main.run(["methods"]) == 130
        assert capsys.readouterr().err == f"turnrl: {said}\n"
    else:
        with pytest.raises(EOFError, match="a file ended"):
            main.run(["methods"])


def test_a_log_that_is_no_terminal_gets_one_line_per_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main.run(["train", str(written(tmp_path)), "--run", str(tmp_path / "run"), "--json"]) == 0
    )
    out, err = capsys.readouterr()
    assert json.loads(out)["after"]
    lines = [line for line in err.splitlines() if " s  " in line]
    assert [line.split(" s  ")[1].partition(":")[0] for line in lines] == [
        "sft 3",
        "sft 3",
        "rl 1/2",
        "rl 2/2",
        "rl 2",
    ]
    assert not any("\x1b" in line for line in err.splitlines())


def test_metrics_are_json_whatever_a_number_is(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run")
    line = log.record(
        "rl", 1, "train", {"loss": float("nan"), "grad_norm": float("inf"), "success": 0.5}
    )
    log.close()
    text = (tmp_path / "run" / "metrics.jsonl").read_text("utf-8")

    def refuse(word: str) -> None:
        raise AssertionError(word)

    assert json.loads(text, parse_constant=refuse) == line
    assert line == {
        "stage": "rl",
        "step": 1,
        "kind": "train",
        "loss": None,
        "grad_norm": None,
        "success": 0.5,
    }


def test_seconds_are_those_of_all_processes_and_tests_are_recorded_at_the_step_that_was_reached(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    first = train(Recipe.parse(DATA), run_dir=folder, progress=False)["seconds"]
    assert first.keys() == {"prepare", "sft", "test-sft", "rl", "test-rl"}
    again = train(Recipe.parse(DATA), run_dir=folder, resume=True, progress=False)["seconds"]
    assert again.keys() == first.keys()
    assert again["sft"] == first["sft"]
    assert again["prepare"] > first["prepare"]
    tests = [(line["stage"], line["step"]) for line in records(folder) if line["kind"] == "test"]
    assert tests == [("sft", 3), ("rl", 2)]
    # Updates, not epochs: eight demonstrations in batches of four are two updates an epoch.
    data = recipe(
        sft={"epochs": 3, "demonstrations": 8}, rl={"steps": 1}, evaluate={"test_tasks": 2}
    )
    train(Recipe.parse(data), run_dir=tmp_path / "other", progress=False)
    assert [line["step"] for line in records(tmp_path / "other") if line["kind"] == "test"] == [
        6,
        1,
    ]


def test_what_a_second_signal_cut_in_two_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first signal comes in an update, the second before its end: half of it is not kept."""
    folder, update = tmp_path / "run", Learner.update

    def cut(self: Learner, *arguments: Any) -> dict[str, float]:
        update(self, *arguments)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second one raises")

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "update", cut)
        with pytest.raises(KeyboardInterrupt):
            train(Recipe.parse(DATA), run_dir=folder, progress=False)
    state = torch.load(folder / "checkpoints" / "last" / "trainer.pt", weights_only=True)
    assert (state["stage"], state["step"]) == (1, 0)
    assert not state["parts"]["optimizer"]["state"]


def test_a_signal_inside_a_library_that_writes_is_still_a_signal(tmp_path: Path) -> None:
    class Stream:
        def write(self, data: bytes) -> int:
            raise KeyboardInterrupt

        def flush(self) -> None: ...

    with pytest.raises(KeyboardInterrupt), explaining_os_errors(tmp_path):
        torch.save({"weights": torch.zeros(10_000)}, cast(IO[bytes], Stream()))


def test_a_clock_adds_up_what_several_processes_spent_in_a_phase() -> None:
    clock = Clock()
    clock.add({"rl": 10.0})
    with clock.phase("rl"):
        assert clock.read()["rl"] >= 10.0
    with clock.phase("rl"):
        pass
    assert clock.read().keys() == {"rl"}
    assert clock.read()["rl"] == clock.read()["rl"] >= 10.0
