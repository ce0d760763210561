"""Runs with an engine that is not the trainer's module: it learns by pushes alone."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from turnrl import Recipe
from turnrl.agents.engines.base import Capabilities, Engine
from turnrl.agents.engines.torch import TorchEngineConfig
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.agents.models.load import Loaded
from turnrl.foundation.errors import RunFailed
from turnrl.training.parity import measure
from turnrl.training.publisher import Publisher
from turnrl.training.run import train
from turnrl.training.run_folder.report.run_files import RunFiles

from ..agents.test_torch_engine import build
from ..toy_world import recipe, records


class ApartConfig(TorchEngineConfig):
    """The torch engine on a copy of the model, as one in another process has it."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, shares_module=False)

    def make(self, loaded: Loaded, max_context: int | None) -> Engine:
        own = Loaded(copy.deepcopy(loaded.model), loaded.tokenizer, loaded.description)
        engine = super().make(own, max_context)
        engine.capabilities = self.capabilities
        return engine


def trained(folder: Path, **changes: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Metrics, and a digest of the weights of each checkpoint."""
    train(Recipe.parse(recipe(**changes)), run_dir=folder, progress=False)
    return records(folder), {
        file.parent.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.glob("checkpoints/*/model.safetensors")
    }


def test_an_engine_with_its_own_weights_trains_the_same_run(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "sft": {"epochs": 12, "validate_every": 4},
        "rl": {"steps": 3, "average": 0.5, "episodes_every": 1},
        "evaluate": {"every": 1, "tasks": 4, "test_tasks": 4},
    }
    shared = trained(tmp_path / "shared", **changes)
    apart = trained(tmp_path / "apart", engine=ApartConfig(), **changes)
    assert apart == shared
    assert {"last", "rl", "sft"} <= shared[1].keys()
    assert len(set(shared[1].values())) > 2
    saved = Recipe.load(tmp_path / "apart" / "recipe.yaml").engine
    assert saved.recipe_key.endswith("test_engines:ApartConfig")

    run = RunFiles.read(tmp_path / "apart")
    versions = {
        step: {turn.version for episode in run.episodes(path) for turn in episode.turns}
        for step, path in run.episode_files("rl")
    }
    # A turn carries the version of the weights that sampled it: those before its step.
    assert versions == {1: {0}, 2: {1}, 3: {2}}


class Stale(ApartConfig):
    """Says that it took weights, and plays on with those that it had."""

    def make(self, loaded: Loaded, max_context: int | None) -> Engine:
        engine = super().make(loaded, max_context)

        async def forgets(weights: Mapping[str, torch.Tensor], version: int) -> None:
            return

        engine._push = forgets  # type: ignore[method-assign]
        return engine


def test_a_stale_engine_ends_the_run_with_the_figures(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="plays another model than the trainer") as caught:
        trained(tmp_path, engine=Stale(), sft={"epochs": 2}, rl={"steps": 1})
    found = re.search(r"version (\d+) .* differ by up to (\S+) nats", str(caught.value))
    assert found is not None
    assert float(found[2]) > 1e-4


def apart(model: Any) -> TorchEngine:
    """An engine that has a copy of the model's weights."""
    engine = TorchEngine(copy.deepcopy(model))
    engine.capabilities = replace(engine.capabilities, shares_module=False)
    return engine


def test_parity_holds_up_to_rounding_and_is_measured_on_all_tokens() -> None:
    model = build(max_position_embeddings=64)
    parity = asyncio.run(measure(apart(model), model, 0))
    assert parity.holds
    assert parity.exact
    assert parity.largest < 1e-5
    # A prompt of 56 and a response of 8: the response as it was sampled, and all but the first
    # token as they are scored.
    assert parity.tokens == 8 + 63


def test_the_probe_sees_a_change_of_one_weight() -> None:
    model = build(max_position_embeddings=64)
    engine = apart(model)
    with torch.no_grad():
        model.get_input_embeddings().weight[3, 0] += 0.1

    async def pushed() -> Publisher:
        publisher = Publisher(engine, model)
        await publisher.push(model.state_dict(), 1)
        return publisher

    assert not asyncio.run(measure(engine, model, 0)).holds
    publisher = asyncio.run(pushed())
    assert publisher.parity is not None
    assert publisher.parity.holds


def test_an_engine_that_cannot_score_is_probed_by_what_it_samples() -> None:
    model = build(max_position_embeddings=64)
    engine = apart(model)
    engine.capabilities = replace(engine.capabilities, scores=False)
    assert asyncio.run(measure(engine, model, 0)).tokens == 8
    other = build(max_position_embeddings=64, seed=1)
    assert not asyncio.run(measure(engine, other, 0)).holds


def test_what_is_not_a_number_is_no_parity() -> None:
    model = build(max_position_embeddings=64)
    engine = apart(model)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    parity = asyncio.run(measure(engine, model, 0))
    assert not parity.holds
    assert parity.largest == float("inf")


def test_half_precision_has_a_bound_of_its_own() -> None:
    model = build(max_position_embeddings=64)
    half = TorchEngine(copy.deepcopy(model).bfloat16())
    parity = asyncio.run(measure(half, model, 0))
    assert not parity.exact
    assert parity.holds
    assert parity.largest > 1e-4, "rounding that no bound of float32 would allow"
    other = build(max_position_embeddings=64, seed=1)
    assert not asyncio.run(measure(half, other, 0)).holds


def test_an_engine_that_shares_the_module_is_not_probed() -> None:
    model = build(max_position_embeddings=64)
    publisher = Publisher(TorchEngine(model), model)
    asyncio.run(publisher.push(model.state_dict(), 1))
    assert publisher.parity is None
