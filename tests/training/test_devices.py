"""A run belongs to no device: nothing of it lands on the default one, and it goes on elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from turnrl import Recipe, UserError, evaluate
from turnrl.agents.models.config import ModelConfig
from turnrl.agents.models.devices import computes_bf16, device_of, moved
from turnrl.agents.models.load import load
from turnrl.training.plan import plan
from turnrl.training.run import train
from turnrl.training.run_folder import checkpoint
from turnrl.training.run_folder.log import Record

from ..toy_world import TEXTS, recipe, records

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
DATA = recipe(
    sft={"epochs": 3, "checkpoint_every": 3, "dropout": True},
    rl={
        "steps": 3,
        "checkpoint_every": 1,
        "credit": {"name": "gae", "limit": "bootstrap"},
        "regularizers": [{"name": "kl"}],
        "minibatches": 2,
        "average": 0.5,
    },
    rewards=[
        {"name": "outcome"},
        {"name": "progress"},
        {"name": "information_gain", "target": "expert", "weight": 0.1},
    ],
    evaluate={"every": 2, "tasks": 4, "test_tasks": 4},
)
"""All that holds tensors: warm start, scoring, critic, reference, averaged weights, evaluation."""


@contextmanager
def elsewhere() -> Iterator[None]:
    """The default device is one that nothing of a run is on, and that holds no numbers."""
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


def run(folder: Path, data: dict[str, Any], **options: Any) -> None:
    train(Recipe.parse(data), run_dir=folder, progress=False, **options)


def test_a_whole_run_and_its_resume_are_made_on_the_device_of_the_model(tmp_path: Path) -> None:
    """Play, score, update, evaluate, save, resume, measure again: bit for bit as without it."""
    here, there = tmp_path / "here", tmp_path / "there"

    def interrupt(record: Record) -> None:
        if (record["stage"], record["step"], record["kind"]) == ("rl", 2, "train"):
            raise KeyboardInterrupt

    run(here, DATA)
    with elsewhere():
        with pytest.raises(KeyboardInterrupt):
            run(there, DATA, on_record=interrupt)
        run(there, DATA, resume=True)
        again = evaluate("toy/lights-v0", agent=there, tasks=4, split="test", progress=False)
    assert records(here) == records(there)
    for name in ("sft", "best", "rl"):
        a, b = (
            load_file(folder / "checkpoints" / name / "model.safetensors")
            for folder in (here, there)
        )
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name
    tests = [line for line in records(here) if line["kind"] == "test"]
    assert again.success == tests[-1]["success"]


def test_what_was_saved_on_a_gpu_goes_on_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files say where each tensor was: `last` is written as if all had been on a GPU."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    def interrupt(record: Record) -> None:
        if (record["stage"], record["step"]) == ("rl", 2):
            raise KeyboardInterrupt

    run(whole, DATA)
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
    with pytest.raises(KeyboardInterrupt):
        run(cut, DATA, on_record=interrupt)
    monkeypatch.undo()
    state = cut / "checkpoints" / "last" / checkpoint.STATE_FILE
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(state, weights_only=True)
    run(cut, DATA | {"model": DATA["model"] | {"device": "cpu"}}, resume=True)
    assert records(whole) == records(cut)
    assert 'model.device "auto" -> "cpu"' in (cut / "recipe.yaml").read_text()
    assert json.loads((cut / "result.json").read_text())["device"] == "cpu"


def gpus(monkeypatch: pytest.MonkeyPatch, count: int, bf16: bool = True) -> None:
    """Let torch say that it sees so many GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)


def test_auto_is_the_first_gpu_or_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    assert device_of("auto") == device_of("cpu") == CPU
    gpus(monkeypatch, 2)
    assert device_of("auto") == device_of("cuda") == device_of("cuda:0") == GPU
    assert device_of("cuda:1") == torch.device("cuda", 1)
    assert device_of("cpu") == CPU


@pytest.mark.parametrize(
    ("asked", "count", "said"),
    [
        ("cuda", 0, "model.device: cuda is not there"),
        ("cuda:2", 2, "cuda:2 is not there: torch sees 2 CUDA devices, counted from cuda:0"),
        ("mps", 0, "mps computes nothing in float64"),
        ("gpu", 0, "'gpu' is no device: it is auto, cpu, cuda or cuda:N"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    asked: str, count: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, count)
    with pytest.raises(UserError, match=said):
        device_of(asked)


def test_a_run_without_its_device_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, 0)
    data = DATA | {"model": DATA["model"] | {"device": "cuda"}}
    for work in (plan, lambda made: train(made, run_dir=tmp_path / "run", progress=False)):
        with pytest.raises(UserError, match="cuda is not there"):
            work(Recipe.parse(data))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"model\.device: 'tpu' is no device"):
        Recipe.parse(DATA | {"model": DATA["model"] | {"device": "tpu"}})


def test_a_measurement_names_its_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpus(monkeypatch, 0)
    with pytest.raises(UserError, match="device: cuda is not there"):
        evaluate("toy/lights-v0", agent=tmp_path, tasks=2, device="cuda", progress=False)
    with pytest.raises(UserError, match="only a language model has a device"):
        evaluate("toy/lights-v0", agent="random", tasks=2, device="cpu", progress=False)


def test_bfloat16_is_automatic_on_gpus_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for has in (True, False):
        gpus(monkeypatch, 1, bf16=has)
        assert computes_bf16("auto", GPU) is has
        assert computes_bf16("auto", CPU) is False
        assert [computes_bf16(asked, GPU) for asked in (True, False)] == [True, False]


def test_random_weights_are_those_of_the_seed_whatever_the_default_device() -> None:
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=320, max_context=64)
    first = load(config, corpus=lambda: TEXTS)
    with elsewhere():
        second = load(config, corpus=lambda: TEXTS)
    assert first.description == second.description
    assert first.description["device"] == "cpu"
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_tensor_that_stays_is_not_copied() -> None:
    tensor = torch.ones(3)
    assert moved(tensor, "cpu") is tensor
