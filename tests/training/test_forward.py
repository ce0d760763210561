"""score: a row's log-probabilities are its own; shortcuts change no value and no gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from turnrl.agents.models import tricks
from turnrl.agents.models.forward import Probe, entropy, score, score_batch

from ..agents.test_torch_engine import FAMILIES, VOCABULARY, build

ENTROPY: dict[str, Probe] = {"entropy": entropy}


def rows(seed: int, count: int, width: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, mask, lengths): right-padded rows of several lengths, action tokens scattered."""
    generator = torch.Generator().manual_seed(seed)
    lengths_B = torch.randint(4, width + 1, (count,), generator=generator)
    tokens_BL = torch.randint(0, VOCABULARY, (count, width), generator=generator)
    real_BL = torch.arange(width)[None] < lengths_B[:, None]
    mask_BL = (torch.rand(count, width, generator=generator) < 0.4) & real_BL
    mask_BL[:, 0], mask_BL[:, 1] = False, True
    return tokens_BL * real_BL, mask_BL, lengths_B


def plain(
    model: Any, tokens_BL: Tensor, mask_BL: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies from all logits, row by row, without padding."""
    logprobs_BL, entropy_BL = torch.zeros(mask_BL.shape), torch.zeros(mask_BL.shape)
    for b in range(len(tokens_BL)):
        last = int(mask_BL[b].nonzero().max()) + 1
        logits_LV = (
            model(tokens_BL[b : b + 1, :last], use_cache=False).logits[0].float() / temperature
        )
        logp_LV = logits_LV.log_softmax(-1)
        for column in mask_BL[b].nonzero().flatten().tolist():
            logprobs_BL[b, column] = logp_LV[column - 1, tokens_BL[b, column]]
            entropy_BL[b, column] = -(logp_LV[column - 1].exp() * logp_LV[column - 1]).sum()
    return logprobs_BL, entropy_BL


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def close(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_does_not_see_its_neighbours_or_padding(family: str) -> None:
    model = build(family)
    tokens_BL, mask_BL, lengths_B = rows(1, 32)
    with torch.no_grad():
        whole_BL = score(model, tokens_BL, mask_BL).logprobs_BL
        for size in (1, 2):
            for start in range(0, 8, size):
                part = slice(start, start + size)
                width = int(lengths_B[part].max())
                alone_BL = score(model, tokens_BL[part, :width], mask_BL[part, :width]).logprobs_BL
                torch.testing.assert_close(alone_BL, whole_BL[part, :width], rtol=0, atol=1e-5)
        junk_BL = torch.randint(0, VOCABULARY, (32, 40))
        padded_BL = torch.cat(
            [torch.where(torch.arange(24)[None] < lengths_B[:, None], tokens_BL, 7), junk_BL], 1
        )
        wide_mask_BL = torch.cat([mask_BL, torch.zeros(32, 40, dtype=torch.bool)], 1)
        wide_BL = score(model, padded_BL, wide_mask_BL).logprobs_BL
        torch.testing.assert_close(wide_BL[:, :24], whole_BL, rtol=0, atol=1e-5)
        assert not wide_BL[:, 24:].any()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_at_actions_only_equal_all_logits(family: str, temperature: float) -> None:
    model = build(family)
    tokens_BL, mask_BL, _ = rows(2, 4)
    weights_BL = torch.randn(mask_BL.shape, generator=torch.Generator().manual_seed(0))
    scores = score(model, tokens_BL, mask_BL, temperature=temperature, probes=ENTROPY)
    logprobs_BL, entropy_BL = plain(model, tokens_BL, mask_BL, temperature)
    torch.testing.assert_close(scores.logprobs_BL, logprobs_BL, rtol=0, atol=1e-4)
    torch.testing.assert_close(scores.of["entropy"], entropy_BL, rtol=0, atol=1e-4)
    assert not scores.logprobs_BL[~mask_BL].any()
    assert not scores.of["entropy"][~mask_BL].any()
    ours = gradients(model, ((scores.logprobs_BL + 0.5 * scores.of["entropy"]) * weights_BL).sum())
    close(ours, gradients(model, ((logprobs_BL + 0.5 * entropy_BL) * weights_BL).sum()))


@pytest.mark.parametrize("entropy_grad", [True, False])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, entropy_grad: bool) -> None:
    model = build()
    tokens_BL, mask_BL, _ = rows(3, 5)
    weights_BL = torch.randn(mask_BL.shape, generator=torch.Generator().manual_seed(0))

    def run() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        scores = score(model, tokens_BL, mask_BL, probes=ENTROPY if entropy_grad else {})
        total = scores.logprobs_BL + (scores.of["entropy"] if entropy_grad else 0.0)
        return (
            scores.logprobs_BL.detach(),
            scores.of["entropy"].detach(),
            gradients(model, (total * weights_BL).sum()),
        )

    logprobs_BL, entropy_BL, grads = run()
    for tokens in (1, 3, 7):
        few = replace(tricks.CPU, logits=tokens * VOCABULARY)
        monkeypatch.setattr(tricks, "CPU", few)
        chunked = run()
        torch.testing.assert_close(chunked[0], logprobs_BL, rtol=0, atol=1e-6)
        torch.testing.assert_close(chunked[1], entropy_BL, rtol=0, atol=1e-6)
        close(chunked[2], grads)


def test_entropy_has_a_gradient_only_if_asked() -> None:
    model = build()
    tokens_BL, mask_BL, _ = rows(4, 2)
    assert not score(model, tokens_BL, mask_BL).of["entropy"].requires_grad
    assert score(model, tokens_BL, mask_BL, probes=ENTROPY).of["entropy"].requires_grad


def test_score_batch_of_any_micro_batches() -> None:
    model = build()
    tokens_BL, mask_BL, _ = rows(5, 9)
    mask_BL[4] = False  # a row that is only read, such as the closing state of an episode
    expected_BL = torch.zeros(mask_BL.shape)
    with_actions = mask_BL.any(1)
    with torch.no_grad():
        expected_BL[with_actions] = plain(model, tokens_BL[with_actions], mask_BL[with_actions])[0]
    for index in (
        [torch.arange(9)],
        [torch.tensor([b]) for b in range(9)],
        [torch.tensor([8, 0, 4]), torch.arange(1, 8)],
    ):
        options: Any = {"temperature": 1.0, "bf16": False}
        out_BL = score_batch(model, tokens_BL, mask_BL, index, **options).logprobs_BL
        torch.testing.assert_close(out_BL, expected_BL, rtol=0, atol=1e-4)
        assert not out_BL.requires_grad
    rough = score_batch(model, tokens_BL, mask_BL, [torch.arange(9)], temperature=1.0, bf16=True)
    rough_BL = rough.logprobs_BL
    assert rough_BL.dtype == torch.float32
    assert float((rough_BL - expected_BL).abs().max()) < 0.5
