"""Families of models: `turnrl train` learns with each, whole and by adapters, and what it saves is
a model of transformers.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)
from turnrl import UserError, train
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.agents.models.config import ModelConfig
from turnrl.agents.models.load import load
from turnrl.agents.models.save import save
from turnrl.training.plan import plan
from turnrl.training.run_folder.folder import RunFolder

from ..agents.test_families import exact
from ..families import FAMILIES, SIZES, build, tokenizer_of
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


def test_a_model_that_also_sees_learns_from_text(tmp_path: Path) -> None:
    """Checkpoints of Gemma 3 from 4 B on have a tower for pictures beside the text model."""
    text = build("Gemma-3")
    eyes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    eyes |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(
        text_config=text.config.to_dict(),
        vision_config=eyes,
        mm_tokens_per_image=4,
        image_token_id=380,
        boi_token_id=381,
        eoi_token_id=382,
    )
    model = Gemma3ForConditionalGeneration(config).eval()
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.tie_weights()
    base = save(model, tokenizer_of("Gemma-3"), tmp_path / "base")
    data = two_steps("Gemma-3", base, lora=False)
    assert plan(data)["engine"]["keeps"].startswith("keys and values")
    train(data, run_dir=tmp_path / "run", progress=False)
    steps = [record for record in records(tmp_path / "run") if record["kind"] == "train"]
    assert max(record["engine_gap/max"] for record in steps) < 1e-4
    folder = RunFolder(tmp_path / "run").checkpoint("rl")
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert isinstance(plain, Gemma3ForConditionalGeneration)
    layer = plain.model.language_model.layers[0].mlp.up_proj.weight
    assert not torch.equal(layer, text.model.layers[0].mlp.up_proj.weight)


@pytest.mark.parametrize(
    ("name", "keeps"), [("Gemma-2", "keys and values"), ("Falcon-H1", "states, .* slower")]
)
def test_a_dry_run_says_what_the_layers_of_a_model_keep(
    name: str, keeps: str, tmp_path: Path
) -> None:
    base = save(build(name), tokenizer_of(name), tmp_path / "base")
    engine = plan(two_steps(name, base, lora=False))["engine"]
    assert engine["name"] == "torch"
    assert re.match(keeps, engine["keeps"])


def test_a_dry_run_refuses_by_name_what_cannot_be_served(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("Gemma-2")
    layers = {"head_dim": 8, "block_types": ["recurrent", "attention"], "lru_width": 32}
    config = RecurrentGemmaConfig(**SIZES, **layers, vocab_size=len(tokenizer), pad_token_id=0)
    base = save(RecurrentGemmaForCausalLM(config), tokenizer, tmp_path / "base")
    with pytest.raises(UserError, match=r"cannot serve RecurrentGemmaForCausalLM.* use a model of"):
        plan(two_steps("Gemma-2", base, lora=False))
