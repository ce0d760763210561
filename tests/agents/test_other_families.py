"""Families beside those of the table: what the page of models says of them, on tiny ones."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from turnrl import UserError
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.agents.models.forward import score
from turnrl.agents.models.kv_cache import RowCache
from turnrl.agents.models.state_cache import StateCache

from ..families import HEADS, SIZES, WINDOW
from .test_torch_engine import VOCABULARY, conversations, reference, run

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 16}
SERVED: dict[str, tuple[str, type, dict[str, Any]]] = {
    "Granite": ("Granite", RowCache, {"logits_scaling": 5.0}),
    "Cohere 2": ("Cohere2", RowCache, WINDOW | MIXED | {"logit_scale": 0.25}),
    "OLMo 3": ("Olmo3", RowCache, WINDOW | MIXED),
    "gpt-oss": (
        "GptOss",
        RowCache,
        HEADS | WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "Granite 4": (
        "GraniteMoeHybrid",
        StateCache,
        MAMBA2
        | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 48}
        | {"num_local_experts": 0, "logits_scaling": 3.0},
    ),
    "Bamba": ("Bamba", StateCache, MAMBA2 | {"attn_layer_indices": [1]}),
    "Mamba 2": (
        "Mamba2",
        StateCache,
        {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 16},
    ),
}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "Zamba 2": (
        "Zamba2",
        {"mamba_d_state": 8, "n_mamba_heads": 8, "mamba_headdim": 8, "mamba_ngroups": 1}
        | {"chunk_size": 16, "layers_block_type": ["mamba", "hybrid"], "hybrid_layer_ids": [1]}
        | {"num_mem_blocks": 1, "use_mem_rope": True, "adapter_rank": 4},
    ),
    "Nemotron-H": (
        "NemotronH",
        {"layers_block_type": ["mamba", "attention"], "mamba_num_heads": 8, "mamba_head_dim": 8}
        | {"ssm_state_size": 8, "n_groups": 1, "chunk_size": 16, "head_dim": 8},
    ),
    "RecurrentGemma": (
        "RecurrentGemma",
        HEADS | {"block_types": ["recurrent", "attention"], "lru_width": 32},
    ),
    "Llama 4": (
        "Llama4Text",
        HEADS
        | {"attention_chunk_size": 8, "num_local_experts": 2, "intermediate_size_mlp": 48}
        | {"layer_types": ["chunked_attention", "full_attention"], "no_rope_layers": [1, 0]},
    ),
}


def made(kind: str, fields: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    common = {"vocab_size": VOCABULARY, "bos_token_id": None, "pad_token_id": 0}
    config = getattr(transformers, f"{kind}Config")(
        **{**SIZES, **common, "eos_token_id": None, **fields}
    )
    model = getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")
    return model(config).eval()


@pytest.mark.parametrize("name", SERVED)
def test_what_the_page_says_is_served_is_served_exactly(name: str) -> None:
    kind, cache, fields = SERVED[name]
    assert re.search(rf"\b{name}\b", PAGE)
    model = made(kind, fields)
    engine = TorchEngine(model, max_context=256, patience_ms=1)
    assert isinstance(engine._cache, cache)
    rng = random.Random(0)
    for played in run(conversations(engine, 3, lambda: rng.random() * 0.01)):
        for prompt, _, said in played:
            ids = prompt + said.token_ids
            assert said.logprobs == pytest.approx(reference(model, ids, len(prompt)), abs=1e-4)
            mask = torch.zeros(1, len(ids), dtype=torch.bool)
            mask[0, len(prompt) :] = True
            trained = score(model, torch.tensor([ids]), mask).logprobs_BL[mask]
            assert trained.tolist() == pytest.approx(said.logprobs, abs=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_page_says_is_refused_is_refused_by_name(name: str) -> None:
    kind, fields = REFUSED[name]
    assert re.search(rf"\b{name}\b", PAGE)
    cls = f"{kind.removesuffix('Text')}ForCausalLM"
    with pytest.raises(UserError, match=f"the torch engine cannot serve {cls}: .*; use a model of"):
        TorchEngine(made(kind, fields), max_context=64)
