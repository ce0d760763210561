"""The engine `vllm` on vLLM itself: `make test-vllm` runs it, after `make setup-vllm`.

Each server takes half a minute to start, so most tests share one.
"""

from __future__ import annotations

import asyncio
import copy
import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import turnrl
from torch import Tensor
from turnrl.agents.engines.base import Completion, Engine, Sampling
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.agents.engines.vllm import VllmEngineConfig
from turnrl.agents.engines.vllm.engine import VllmEngine
from turnrl.agents.models import tiny
from turnrl.agents.models.config import LoraConfig
from turnrl.agents.models.load import Loaded
from turnrl.agents.models.lora import with_lora
from turnrl.foundation.errors import RunFailed
from turnrl.foundation.processes import is_alive
from turnrl.training.parity import EXACT, measure
from turnrl.training.publisher import Publisher

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

CONTEXT, VOCABULARY = 320, 256
TEXTS = ["you go north to the red door and take a coin. hello world, what is here?"]


def built(seed: int = 0, family: str = "qwen2", context: int = CONTEXT) -> Loaded:
    tokenizer = tiny.train_tokenizer(TEXTS, 320)
    if family == "qwen2":
        sizes: dict[str, Any] = {"layers": 2, "width": 128, "heads": 4, "kv_heads": 2}
        model = tiny.build(tokenizer, max_context=context, init_std=0.15, seed=seed, **sizes)
    else:
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=context,
            initializer_range=0.15,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
        model = transformers.LlamaForCausalLM(config).eval()
    return Loaded(model, tokenizer, {"max_context": context})


def started(loaded: Loaded, **fields: Any) -> VllmEngine:
    engine = VllmEngineConfig(**fields).make(loaded, None)
    assert isinstance(engine, VllmEngine)
    return engine


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in weights.items()}


def moved(model: Any, seed: int, scale: float = 0.02) -> None:
    """Change every weight a little, as a step of training does, and keep its size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            size = parameter.norm()
            parameter += scale * torch.randn(parameter.shape, generator=generator)
            parameter *= size / parameter.norm()


class Shared:
    """A server, the model that it plays, and one event loop."""

    def __init__(self) -> None:
        self.loaded = built()
        self.model = self.loaded.model
        # Prompts are longer than what is encoded at once, so that they are cut into pieces.
        self.engine = started(self.loaded, arguments=["--max-num-batched-tokens", "96"])
        self.torch = TorchEngine(self.model, self.loaded.tokenizer)
        self.publisher = Publisher(self.engine, self.model)
        self.runner = asyncio.Runner()
        self.version = 0

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    def push(self) -> None:
        self.version += 1
        self.run(self.publisher.push(self.model.state_dict(), self.version))
        self.run(self.torch.push(self.model.state_dict(), self.version))


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    shared = Shared()
    yield shared
    shared.run(shared.engine.aclose())


async def ask(engine: Engine, prompt: list[int], sampling: Sampling, name: str = "a") -> Completion:
    async with engine.conversation(name) as talk:
        return await talk.generate(prompt, sampling)


def prompt_of(seed: int, length: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(VOCABULARY) for _ in range(length)]


def test_it_passes_the_suite_of_every_engine() -> None:
    loaded, other = built(context=64), built(seed=1, context=64).model.state_dict()
    report = turnrl.check_engine(
        started(loaded), vocabulary=VOCABULARY, weights=(copied(loaded.model.state_dict()), other)
    )
    assert [r.name for r in report.results if r.status == "skipped"] == ["bit-exact"]


def test_lora_adapters_of_another_family_are_pushed_merged_and_pass_it_too() -> None:
    loaded = built(family="llama", context=64)
    loaded.model = with_lora(loaded.model, LoraConfig(rank=4), 0).eval()
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    own = copied(loaded.model.state_dict())
    other = {name: tensor * (3 if "lora_B" in name else 1) for name, tensor in own.items()}
    engine = started(loaded)
    parity = asyncio.run(measure(engine, loaded.model, 0))
    assert parity.holds, str(parity)
    report = turnrl.check_engine(engine, vocabulary=VOCABULARY, weights=(own, other))
    assert [r.name for r in report.results if r.status == "skipped"] == ["bit-exact"]


SAMPLINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "greedy": {"temperature": 0},
    "cold": {"temperature": 0.4},
    "hot": {"temperature": 1.7},
    "nearly greedy": {"temperature": 0.005},
    "nucleus": {"top_p": 0.7, "temperature": 1.3},
    "top k": {"top_k": 3},
    "both filters": {"top_k": 20, "top_p": 0.8, "temperature": 2.0},
    "large seed": {"seed": 2**64 + 12345},
    "stop token": {"stop_token_ids": tuple(range(0, 256, 9))},
    "minimum": {"stop_token_ids": tuple(range(0, 256, 9)), "min_tokens": 12},
    "stop string": {"stop": ("o", "e")},
    "stop string after a minimum": {"stop": ("o", "e"), "min_tokens": 15},
    "what the model ends with": {"stop_token_ids": (1, 2)},
}


@pytest.mark.parametrize("name", SAMPLINGS)
def test_equal_seeds_sample_what_the_torch_engine_samples(shared: Shared, name: str) -> None:
    fields = {"max_tokens": 24, "seed": 3} | SAMPLINGS[name]
    prompts = [prompt_of(seed, length) for seed, length in enumerate((1, 7, 150, 290))]

    async def both() -> list[tuple[Completion, Completion]]:
        sampling = Sampling(**fields)
        return [
            (await ask(shared.engine, p, sampling), await ask(shared.torch, p, sampling))
            for p in prompts
        ]

    for served, own in shared.run(both()):
        assert served.token_ids == own.token_ids
        assert served.finish_reason == own.finish_reason
        # Rounding is that of the logits, which a low temperature enlarges.
        rounding = EXACT / min(fields.get("temperature") or 1.0, 1.0)
        assert served.logprobs == pytest.approx(own.logprobs, abs=rounding)


def test_turns_are_found_in_the_cache_and_a_push_forgets_them(shared: Shared) -> None:
    stats = shared.engine.stats

    async def turns() -> list[int]:
        cached, history = [], prompt_of(50, 200)
        async with shared.engine.conversation("turns") as talk:
            for seed in range(3):
                before = stats.cached_tokens
                said = await talk.generate(history, Sampling(max_tokens=4, seed=seed))
                history += said.token_ids + prompt_of(seed, 20)
                cached.append(stats.cached_tokens - before)
                if seed == 1:
                    await shared.engine.push(shared.model.state_dict(), shared.version)
        return cached

    assert shared.run(turns()) == [0, 128, 0], "whole blocks of 128 tokens"


def test_twenty_pushes_are_each_played_with(shared: Shared) -> None:
    gaps = []
    for seed in range(20):
        moved(shared.model, seed)
        stale = shared.run(measure(shared.engine, shared.model, seed))
        assert not stale.holds, "before the push it plays the older weights"
        shared.push()
        assert shared.publisher.parity is not None
        gaps.append(shared.publisher.parity.largest)
    assert max(gaps) < EXACT
    assert shared.publisher.parity is not None
    assert shared.publisher.parity.exact


def test_a_small_step_is_enough_to_tell_a_stale_engine(shared: Shared) -> None:
    moved(shared.model, 100, scale=1e-4)
    assert not shared.run(measure(shared.engine, shared.model, 0)).holds
    shared.push()


@pytest.mark.parametrize("way", ["push forgotten", "vLLM's own reload", "caches kept"])
def test_a_stale_engine_ends_the_run(
    shared: Shared, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, engine = shared.engine._call, shared.engine
    taken: dict[str, Any] = {"process": engine._process, "missing": []}

    async def forgotten(method: str, *arguments: str) -> dict[str, Any]:
        return taken

    async def reloaded(method: str, *arguments: str) -> dict[str, Any]:
        body = {"method": "reload_weights", "kwargs": {"weights_path": arguments[0]}}
        await engine._control.post("/collective_rpc", turnrl_json(body), lambda reply: None)
        return taken

    async def kept(route: str, body: Any, read: Callable[..., Any], *rest: Any) -> Any:
        if route.startswith("/reset_prefix_cache"):
            return {"success": True}
        return await type(engine._control).post(engine._control, route, body, read, *rest)

    if way == "caches kept":
        monkeypatch.setattr(engine._control, "post", kept)
    else:
        monkeypatch.setattr(engine, "_call", forgotten if way == "push forgotten" else reloaded)
    # The probe of the next push continues the prompt that the last one left in the cache.
    moved(shared.model, 200)
    with pytest.raises(RunFailed, match=r"plays another model than the trainer: .* differ by up"):
        shared.push()
    monkeypatch.undo()
    assert engine._call == call
    shared.push()


def turnrl_json(body: dict[str, Any]) -> bytes:
    import json

    return json.dumps(body).encode()


@pytest.mark.parametrize("which", ["the server", "the process that computes"])
def test_a_server_that_is_killed_in_mid_rollout_loses_nothing(shared: Shared, which: str) -> None:
    engine = shared.engine
    assert engine.server is not None
    moved(shared.model, 300)
    shared.push()
    starts, victim = engine.server.starts, engine.server.process
    if which != "the server":
        assert engine._process is not None
        victim = engine._process
    prompts = [prompt_of(seed, 40) for seed in range(24)]

    async def turns(number: int) -> list[list[int]]:
        history, said = prompts[number], list[list[int]]()
        async with engine.conversation(f"{number}") as talk:
            for seed in range(3):
                sampling = Sampling(max_tokens=20, seed=seed)
                said.append((await talk.generate(history, sampling)).token_ids)
                history = history + said[-1] + [5]
        return said

    async def rollout(kill: bool) -> list[list[list[int]]]:
        work = [asyncio.ensure_future(turns(number)) for number in range(len(prompts))]
        if kill:
            before = engine.stats.generated_tokens
            while engine.stats.generated_tokens < before + 200:
                await asyncio.sleep(0.001)
            os.kill(victim, signal.SIGKILL)
        return await asyncio.gather(*work)

    expected = shared.run(rollout(kill=False))
    assert shared.run(rollout(kill=True)) == expected
    assert engine.server.starts == starts + 1
    parity = shared.run(measure(engine, shared.model, 0))
    assert parity.holds, f"it came up with the weights of the last push: {parity}"
    shared.push()


def test_half_precision_is_served_within_its_bound_and_leaves_nothing_behind() -> None:
    before = {*Path("/dev/shm").iterdir(), *Path("/tmp").glob("vllm*")}
    loaded = built()
    engine = started(loaded, dtype="bfloat16")
    assert engine.server is not None
    processes = [engine.server.process, engine._process or 0]
    assert all(map(is_alive, processes))
    publisher = Publisher(engine, loaded.model)
    assert not engine.full_precision
    with asyncio.Runner() as runner:
        for seed in range(5):
            moved(loaded.model, seed)
            runner.run(publisher.push(loaded.model.state_dict(), seed))
            assert publisher.parity is not None
            assert not publisher.parity.exact
        stale = copy.deepcopy(loaded.model)
        moved(stale, 99, scale=0.3)
        assert not runner.run(measure(engine, stale, 0)).holds
        runner.run(engine.aclose())
    assert not any(map(is_alive, processes))
    assert {*Path("/dev/shm").iterdir(), *Path("/tmp").glob("vllm*")} <= before
