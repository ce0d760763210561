"""A request is the same beside others, also where position encodings follow the batch."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from turnrl import UserError
from turnrl.agents.engines.base import Completion, Sampling
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.agents.models.forward import score
from turnrl.agents.models.positions import exact_positions, rope_depends_on_length

from .test_torch_engine import ask

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "initializer_range": 0.3,
}
ORIGINAL, STRETCHED = 64, 256


def made(family: str) -> Any:
    torch.manual_seed(0)
    if family == "phi3":
        rope: dict[str, Any] = {
            "rope_type": "longrope",
            "short_factor": [1.0] * 4,
            "long_factor": [9.0, 5.0, 3.0, 2.0],
        }
        config: Any = Phi3Config(
            **SIZES,
            max_position_embeddings=STRETCHED,
            original_max_position_embeddings=ORIGINAL,
            rope_parameters=rope
            | {"rope_theta": 10_000.0, "original_max_position_embeddings": ORIGINAL},
        )
        return Phi3ForCausalLM(config).eval()
    if family in ("llama", "qwen2"):
        rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
        kind, model = (
            (LlamaConfig, LlamaForCausalLM)
            if family == "llama"
            else (Qwen2Config, Qwen2ForCausalLM)
        )
        return model(kind(**SIZES, max_position_embeddings=ORIGINAL, rope_parameters=rope)).eval()
    rope = {
        "rope_type": "yarn",
        "factor": 4.0,
        "rope_theta": 10_000.0,
        "original_max_position_embeddings": ORIGINAL,
    }
    return LlamaForCausalLM(
        LlamaConfig(**SIZES, max_position_embeddings=STRETCHED, rope_parameters=rope)
    ).eval()


FAMILIES = {"phi3": ORIGINAL, "llama": ORIGINAL, "qwen2": ORIGINAL, "yarn": STRETCHED}
SHORT = [5, 17, 42]


def beside(engine: TorchEngine, *prompts: list[int], tokens: int = 12) -> list[Completion]:
    async def work() -> list[Completion]:
        asked = [
            ask(engine, ids, Sampling(max_tokens=tokens, seed=i)) for i, ids in enumerate(prompts)
        ]
        return await asyncio.gather(*asked)

    return asyncio.run(work())


def trained(model: Any, prompt: list[int], said: Completion, pad: int = 0) -> list[float]:
    """The trainer's log-probabilities of a response, beside a row that is longer by `pad`."""
    ids = [*prompt, *said.token_ids]
    rows = [[*ids, *[0] * pad], [7] * (len(ids) + pad)]
    mask = torch.zeros(2, len(ids) + pad, dtype=torch.bool)
    mask[0, len(prompt) : len(ids)] = True
    mask[1, -1] = True
    return score(model, torch.tensor(rows), mask).logprobs_BL[0][mask[0]].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_short_request_beside_a_long_one_is_the_same_request(family: str) -> None:
    model = made(family)
    engine = TorchEngine(model)
    limit = engine.max_context
    assert limit == FAMILIES[family] == exact_positions(model.config)
    long = [(11 * i) % 96 for i in range(limit - 12)]
    [alone] = beside(engine, SHORT)
    together, far = beside(engine, SHORT, long)
    assert together.token_ids == alone.token_ids
    assert together.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    assert len(long) + len(far.token_ids) == limit
    for pad in (0, limit - len(SHORT) - 12):
        assert trained(model, SHORT, alone, pad) == pytest.approx(alone.logprobs, abs=1e-4)
    assert trained(model, long, far) == pytest.approx(far.logprobs, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_beside_longer_ones_keeps_its_positions(family: str) -> None:
    """Turns of several lengths in one batch: the padding lies at positions that no row has."""
    model = made(family)
    engine = TorchEngine(model, max_context=ORIGINAL)

    async def work() -> list[tuple[list[int], Completion]]:
        talks = {name: engine.conversation(name) for name in "ab"}
        prompts = {"a": [3] * 50, "b": [9, 8]}
        said: list[tuple[list[int], Completion]] = []
        for turn in range(2):
            got = await asyncio.gather(
                *(
                    talk.generate(prompts[name], Sampling(max_tokens=3, seed=turn))
                    for name, talk in talks.items()
                )
            )
            for name, completion in zip("ab", got, strict=True):
                said.append((list(prompts[name]), completion))
                prompts[name] += [*completion.token_ids, *([4] * (2 if name == "a" else 40))]
        return said

    for prompt, completion in asyncio.run(work()):
        assert trained(model, prompt, completion) == pytest.approx(completion.logprobs, abs=1e-4)


@pytest.mark.parametrize(
    ("family", "asked", "part"),
    [
        ("phi3", 65, "beyond 64 of its 256 positions"),
        ("llama", 65, "the model has 64 positions"),
        ("yarn", 257, "the model has 256 positions"),
    ],
)
def test_a_longer_context_than_is_encoded_alike_is_refused(
    family: str, asked: int, part: str
) -> None:
    with pytest.raises(UserError, match=part) as error:
        TorchEngine(made(family), max_context=asked)
    assert "\n" not in str(error.value)


def test_a_row_that_the_trainer_would_encode_by_its_neighbours_is_refused() -> None:
    model, tokens = made("phi3"), torch.ones(2, ORIGINAL + 1, dtype=torch.long)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    mask[:, 5] = True
    with pytest.raises(UserError, match="a row of 65 tokens: beyond 64"):
        score(model, tokens, mask)
    assert score(model, tokens[:, 1:], mask[:, 1:]).logprobs_BL.any()


def test_positions_by_the_neighbour_are_found_though_no_config_says_so() -> None:
    """A model's own code may do as it likes: its first positions are tried beside the last."""
    model = made("yarn")
    rope, plain = model.model.rotary_emb, model.model.rotary_emb.forward

    def forward(x: Any, position_ids: Any) -> Any:
        stretch = 3.0 if int(position_ids.max()) >= 100 else 1.0
        return plain(x, position_ids / stretch)

    rope.forward = forward
    assert not rope_depends_on_length(model.config)
    with pytest.raises(
        UserError, match="max_context=256 is too long for LlamaForCausalLM: the positions of a row"
    ):
        TorchEngine(model)
    assert TorchEngine(model, max_context=100).max_context == 100


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"rope_parameters": {"rope_type": "default"}}, (False, 512)),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, (True, 512)),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, (True, 512)),
        ({"rope_scaling": {"type": "su"}, "original_max_position_embeddings": 128}, (True, 128)),
        (
            {"rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 64}},
            (True, 64),
        ),
        (
            {
                "rope_parameters": {
                    "full_attention": {
                        "rope_type": "longrope",
                        "original_max_position_embeddings": 32,
                    },
                    "other": {"rope_type": "default"},
                }
            },
            (True, 32),
        ),
        (
            {"rope_parameters": {"rope_type": "llama3", "original_max_position_embeddings": 64}},
            (False, 512),
        ),
        ({}, (False, 512)),
    ],
    ids=str,
)
def test_what_a_config_says(said: dict[str, Any], expected: tuple[bool, int]) -> None:
    config = type("Config", (), {"max_position_embeddings": 512} | said)()
    assert (rope_depends_on_length(config), exact_positions(config)) == expected


def test_learned_positions_are_all_there_are() -> None:
    config = GPT2Config(vocab_size=96, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    engine = TorchEngine(GPT2LMHeadModel(config).eval())
    [said] = beside(engine, [1] * 30)
    assert len(said.token_ids) == 2
    with pytest.raises(UserError, match="the model has 32 positions"):
        TorchEngine(GPT2LMHeadModel(config).eval(), max_context=33)
