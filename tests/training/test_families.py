"""Families of models: `turnrl train` learns with each, whole and by adapters, and what it saves is
a model of transformers.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from turnrl import train
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.agents.models.config import ModelConfig
from turnrl.agents.models.load import load
from turnrl.agents.models.save import save
from turnrl.training.run_folder.folder import RunFolder

from ..agents.test_families import exact
from ..families import FAMILIES, build, tokenizer_of
from ..toy_world import recipe, records


def two_steps(name: str, model: Path, lora: bool) -> dict[str, Any]:
    """A recipe of two steps of reinforcement; the entropy gives even useless play a gradient."""
    rl = {
        "name": "rl",
        "steps": 2,
        "tasks_per_step": 2,
        "group_size": 2,
        "optim": {"lr": 0.003},
        "regularizers": [{"name": "entropy", "coefficient": 0.1}],
    }
    data = recipe(
        name=name,
        model={"name": str(model), "max_context": 512, "lora": {"rank": 2} if lora else None},
        agent={"max_turns": 3, "sampling": {"max_tokens": 5}},
        evaluate={"every": 0, "test_tasks": 1},
    )
    return data | {"stages": [rl]}


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("name", FAMILIES)
def test_two_steps_learn_and_are_saved(name: str, lora: bool, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(name)
    base = save(build(name), tokenizer, tmp_path / "base")
    run = tmp_path / "run"
    train(two_steps(name, base, lora), run_dir=run, progress=False)
    steps = [record for record in records(run) if record["kind"] == "train"]
    assert [record["step"] for record in steps] == [1, 2]
    for record in steps:
        assert record["engine_gap/max"] < 1e-4, "the engine's policy is the trainer's"
        assert record["tokens/trained"] > 8
        assert record["updates/skipped"] == 0
        assert record["grad_norm"] > 0

    folder = RunFolder(run).checkpoint("rl")
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    before = AutoModelForCausalLM.from_pretrained(base).eval()
    moved = [
        key
        for key, old in before.state_dict().items()
        if not torch.equal(old, plain.state_dict()[key])
    ]
    assert len(moved) > 3, "weights that were trained are in the file"
    words = AutoTokenizer.from_pretrained(folder)
    assert words.chat_template == tokenizer.chat_template
    ids = words("Now red\nblue Now green\nwhite")["input_ids"]
    loaded = load(ModelConfig(name=str(folder), max_context=512))
    engine = TorchEngine(loaded.model, loaded.tokenizer)
    assert asyncio.run(engine.score(ids, 1)) == pytest.approx(exact(plain, words, ids, 1), abs=1e-4)
