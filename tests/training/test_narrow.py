"""The shortcuts of the forward pass for training: same values, same gradients, and a way out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from turnrl.agents.models import attention, narrow
from turnrl.agents.models.forward import autocast, score
from turnrl.agents.models.narrow import hidden_before, narrows

from ..agents.test_torch_engine import FAMILIES, VOCABULARY, build


def batch(rows: int, width: int, actions: int, shared: int = 0) -> tuple[Tensor, Tensor]:
    """(tokens, mask): up to `actions` action tokens a row, none in the last; `shared` are equal."""
    generator = torch.Generator().manual_seed(rows)
    tokens_BL = torch.randint(0, VOCABULARY, (rows, width), generator=generator)
    tokens_BL[:, :shared] = tokens_BL[0, :shared]
    mask_BL = torch.zeros(rows, width, dtype=torch.bool)
    first = max(shared, 1)
    for b in range(rows - 1):
        mask_BL[b, first + torch.randperm(width - first, generator=generator)[: actions - b]] = True
    return tokens_BL, mask_BL


def values_and_gradients(
    model: Any, tokens_BL: Tensor, mask_BL: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    scores = score(model, tokens_BL, mask_BL, hidden=True)
    assert scores.hidden_BLD is not None
    (scores.logprobs_BL.sum() + scores.hidden_BLD.square().sum()).backward()
    return scores.logprobs_BL.detach(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@pytest.mark.parametrize("shared", [0, 15])
def test_narrow_equals_full(
    family: str, kind: str, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "BLOCK", 8)
    model = build(family)
    model.set_attn_implementation(kind)
    tokens_BL, mask_BL = batch(6, 40, 9, shared)
    assert narrows(model.get_decoder())
    got_BL, got = values_and_gradients(model, tokens_BL, mask_BL)
    monkeypatch.setattr(narrow, "WORTH", 0.0)
    expected_BL, expected = values_and_gradients(model, tokens_BL, mask_BL)
    torch.testing.assert_close(got_BL, expected_BL, rtol=0, atol=1e-5)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=1e-4, msg=name)


def test_only_what_is_read_reaches_the_last_feed_forward_part() -> None:
    model = build()
    tokens_BL, mask_BL = batch(4, 40, 5)
    seen: list[torch.Size] = []
    model.model.layers[-1].mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    narrows(model.get_decoder())
    seen.clear()
    score(model, tokens_BL, mask_BL)
    assert [tuple(shape[:2]) for shape in seen] == [(4, 5)]


def test_a_common_beginning_is_encoded_once() -> None:
    model = build()
    tokens_BL, mask_BL = batch(4, 40, 5, shared=12)
    seen: list[tuple[int, ...]] = []
    model.model.layers[0].mlp.register_forward_pre_hook(
        lambda _, args: seen.append(tuple(args[0].shape[:2]))
    )
    narrows(model.get_decoder())
    seen.clear()
    score(model, tokens_BL, mask_BL)
    before_first_action = int(mask_BL.any(0).nonzero().min()) - 1
    shared = min(before_first_action, 12)
    assert seen == [(1, shared), (4, 40 - shared)]


def test_nothing_is_left_behind() -> None:
    model = build().train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    tokens_BL, mask_BL = batch(4, 40, 5)
    score(model, tokens_BL, mask_BL)
    assert [module.training for module in model.modules()] == modes
    assert not model.model.layers[-1]._forward_pre_hooks


def test_bfloat16_autocast_stays_close() -> None:
    model = build()
    tokens_BL, mask_BL = batch(4, 40, 5)
    with autocast(True, tokens_BL.device):
        rough_BL = score(model, tokens_BL, mask_BL).logprobs_BL
    assert narrows(model.get_decoder())
    torch.testing.assert_close(
        rough_BL, score(model, tokens_BL, mask_BL).logprobs_BL, rtol=0, atol=0.2
    )


def test_models_that_it_does_not_suit_are_computed_in_full() -> None:
    model = build()
    tokens_BL, mask_BL = batch(4, 40, 5)
    expected_BL = score(model, tokens_BL, mask_BL).logprobs_BL

    class Shifted(type(model.model.layers[-1])):  # type: ignore[misc]
        """A layer that mixes columns in its own way."""

        def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
            out: Tensor = super().forward(hidden_states, **kwargs)
            return out + hidden_states.roll(1, dims=1)

    model.model.layers[-1].__class__ = Shifted
    narrow._known.clear()
    assert not narrows(model.get_decoder())
    full_BLD = model.model(input_ids=tokens_BL, use_cache=False).last_hidden_state
    rows_N, columns_N = mask_BL.nonzero(as_tuple=True)
    got_ND = hidden_before(model.get_decoder(), tokens_BL, mask_BL)
    torch.testing.assert_close(got_ND, full_BLD[rows_N, columns_N - 1], rtol=0, atol=1e-6)
    assert not torch.allclose(score(model, tokens_BL, mask_BL).logprobs_BL, expected_BL)


def test_gradient_checkpointing_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", 8)
    model = build().train()
    tokens_BL, mask_BL = batch(4, 40, 5)
    expected_BL, expected = values_and_gradients(model, tokens_BL, mask_BL)
    model.gradient_checkpointing_enable()
    assert not narrows(model.get_decoder())
    got_BL, got = values_and_gradients(model, tokens_BL, mask_BL)
    torch.testing.assert_close(got_BL, expected_BL, rtol=0, atol=1e-5)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize(("length", "heads", "kv_heads"), [(13, 4, 4), (16, 4, 2), (41, 6, 3)])
def test_attention_in_blocks(
    length: int, heads: int, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "BLOCK", 8)
    generator = torch.Generator().manual_seed(length)
    query, key, value = (
        torch.randn(3, length, count, 16, generator=generator).transpose(1, 2).requires_grad_()
        for count in (heads, kv_heads, kv_heads)
    )
    upstream = torch.randn(3, heads, length, 16, generator=generator)

    def run() -> list[Tensor]:
        out = scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=0.3, enable_gqa=True
        )
        return [out.detach(), *torch.autograd.grad(out, (query, key, value), upstream)]

    expected = run()
    with attention.CausalBlocks():
        got = run()
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
