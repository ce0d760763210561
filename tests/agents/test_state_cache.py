"""States that cannot be cut back: what is encoded again, and that nothing else of a row is left."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
import torch
import transformers
from turnrl.agents.engines.base import EngineError, Sampling
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.agents.models.state_cache import StateCache

from ..families import SIZES, build
from .test_torch_engine import VOCABULARY, reference, run, words

NEAR = 1e-4
SMALL: dict[str, Any] = SIZES | {
    "vocab_size": VOCABULARY,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def made(family: str) -> Any:
    """A model that keeps states; LFM2 goes on by many tokens, the others by one at a time."""
    if family == "lfm2":
        return build("LFM2")
    torch.manual_seed(0)
    if family == "mamba":
        config: Any = transformers.MambaConfig(**SMALL, state_size=4)
        return transformers.MambaForCausalLM(config).eval()
    mixed = {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4}
    return transformers.JambaForCausalLM(transformers.JambaConfig(**SMALL, **mixed)).eval()


@pytest.mark.parametrize("family", ["lfm2", "mamba", "jamba"])
def test_a_row_goes_back_to_where_a_prompt_ended(family: str) -> None:
    model = made(family)
    engine = TorchEngine(model, max_context=256)
    assert isinstance(engine._cache, StateCache)
    assert engine._cache.singly == (family != "lfm2")
    rng = random.Random(0)
    prompt = words(rng, 30)

    async def work() -> None:
        talk = engine.conversation("a")
        first = await talk.generate(prompt, Sampling(max_tokens=6))
        assert first.logprobs == pytest.approx(
            reference(model, prompt + first.token_ids, 30), abs=NEAR
        )
        assert engine.stats.prompt_tokens == 30
        # As where a template drops the reasoning of the answer: the prompt is still there.
        other = prompt + words(rng, 9)
        second = await talk.generate(other, Sampling(max_tokens=4))
        assert engine.stats.prompt_tokens == 30 + 10
        assert second.logprobs == pytest.approx(
            reference(model, other + second.token_ids, 39), abs=NEAR
        )
        # What is scored leaves nothing behind.
        longer = other + second.token_ids + words(rng, 5)
        for _ in range(2):
            scores = await talk.score([*longer, 7, 8], len(longer))
            assert scores == pytest.approx(reference(model, [*longer, 7, 8], len(longer)), abs=NEAR)
        before = engine.stats.prompt_tokens
        third = await talk.generate(longer, Sampling(max_tokens=4))
        assert engine.stats.prompt_tokens == before + 6
        assert third.logprobs == pytest.approx(
            reference(model, longer + third.token_ids, len(longer)), abs=NEAR
        )
        talk.close()

    run(work())
    assert engine._cache.rows == []


@pytest.mark.parametrize("family", ["lfm2", "jamba"])
def test_a_group_shares_its_opening_and_goes_its_own_ways(family: str) -> None:
    model = made(family)
    engine = TorchEngine(model, max_context=256)
    opening = words(random.Random(1), 25)

    async def one(i: int) -> None:
        history = list(opening)
        for turn in range(3):
            said = await talks[i].generate(history, Sampling(max_tokens=3 + i, seed=9 * i + turn))
            ids = history + said.token_ids
            assert said.logprobs == pytest.approx(reference(model, ids, len(history)), abs=1e-4)
            history = ids + words(random.Random(i + turn), 4)
        talks[i].close()

    async def all_of_them() -> None:
        await asyncio.gather(*(one(i) for i in range(4)))

    talks = [engine.conversation(f"g{i}") for i in range(4)]
    passes = []
    engine._cache.decoder.register_forward_pre_hook(
        lambda _, args, kwargs: passes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    run(all_of_them())
    assert passes.count((1, 24)) == 1, "the opening but for its last token, once for all four"
    assert all(rows == 1 for rows, _ in passes)


def test_a_failed_pass_leaves_no_half_of_a_state() -> None:
    model = made("lfm2")
    engine = TorchEngine(model, max_context=256)
    prompt = list(range(10))
    expected = run(engine.conversation("before").generate(prompt, Sampling(max_tokens=4)))
    engine = TorchEngine(model, max_context=256)
    talk = engine.conversation("a")
    calls = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of luck")

    handle = model.model.layers[1].register_forward_pre_hook(fail)

    async def work() -> None:
        with pytest.raises(EngineError, match="out of luck"):
            await talk.generate(prompt, Sampling(max_tokens=4))
        assert await talk.generate(prompt, Sampling(max_tokens=4)) == expected

    run(work())
    handle.remove()
