"""Regularizers: reference numbers, expectations over a coin, and where the gradient goes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from turnrl.foundation.errors import UserError
from turnrl.training.batch import TokenBatch
from turnrl.training.losses.base import LOSSES
from turnrl.training.regularizers.base import REGULARIZERS

from .builders import NAN, batch_of, entry, golden, golden_batch, scores

P, REF = [0.7, 0.3], [0.5, 0.5]
EXACT = 0.082283
"""KL(P || REF), nats."""
NOTHING = torch.zeros(1, 1)
"""Advantages, which regularizers do not look at."""


def build(name: str, **fields: Any) -> Any:
    return REGULARIZERS.build({"name": name, **fields})


def coin() -> tuple[TokenBatch, Tensor, Tensor]:
    """Both sides of a coin as two tokens: batch, logits and log-probabilities with gradient."""
    logits = torch.tensor(P, dtype=torch.float64).log().requires_grad_()
    ref_BL = torch.tensor([REF], dtype=torch.float64).log()
    batch = batch_of([[0, 0]]).with_scores(ref=scores(ref_BL))
    return batch, logits, logits.log_softmax(0)[None]


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_reference(estimator: str) -> None:
    batch, _ = golden_batch()
    ref_BL = torch.where(batch.mask_BL, golden("ref_logprobs"), NAN)
    batch = batch.with_scores(ref=scores(ref_BL))
    new_BL = torch.where(batch.mask_BL, golden("new_logprobs"), NAN)
    out = build("kl", estimator=estimator).token_loss(scores(new_BL), batch, NOTHING)
    expected, atol = entry(f"kl_{estimator}")
    value = (
        out.loss_BL * LOSSES.build({"name": "reinforce"}).weights_BL(batch, torch.float64)
    ).sum()
    torch.testing.assert_close(value, expected, atol=atol, rtol=0)
    assert torch.equal(out.metrics["kl"], out.loss_BL)


@pytest.mark.parametrize(("estimator", "expected"), [("k1", 0.3), ("k2", 0.045), ("k3", 0.040818)])
def test_one_token(estimator: str, expected: float) -> None:
    batch = batch_of([[0]]).with_scores(ref=scores(torch.tensor([[-1.3]]).double()))
    out = build("kl", estimator=estimator).token_loss(
        scores(torch.tensor([[-1.0]]).double()), batch, NOTHING
    )
    assert float(out.loss_BL) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("estimator", "expected", "gradient"),
    [("k1", EXACT, 0.0), ("k2", 0.078766, 0.177933), ("k3", EXACT, 0.2)],
)
def test_expectations_over_a_coin(estimator: str, expected: float, gradient: float) -> None:
    """The mean over the policy's own samples; k2 has the gradient of KL(P || REF), 0.177933."""
    batch, logits, logprobs_BL = coin()
    loss_BL = (
        build("kl", estimator=estimator).token_loss(scores(logprobs_BL), batch, NOTHING).loss_BL
    )
    mean = (loss_BL[0] * torch.tensor(P, dtype=torch.float64)).sum()
    assert mean.item() == pytest.approx(expected, abs=1e-6)
    assert float(torch.autograd.grad(mean, logits)[0][0]) == pytest.approx(gradient, abs=1e-6)


def test_the_exact_gradient_of_the_coin() -> None:
    logits = torch.tensor(P, dtype=torch.float64).log().requires_grad_()
    p, ref = logits.softmax(0), torch.tensor(REF, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((p * (p / ref).log()).sum(), logits)
    assert float(gradient[0]) == pytest.approx(0.177933, abs=1e-6)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_identical_models_and_extremes(estimator: str) -> None:
    ref_BL = torch.tensor([[-0.7, -900.0, -0.1, NAN]])
    batch = batch_of([[0, 0, 0, -1]]).with_scores(ref=scores(ref_BL))
    kl = build("kl", estimator=estimator)
    loss_BL = kl.token_loss(
        scores(torch.tensor([[-0.7, -0.1, -900.0, NAN]])), batch, NOTHING
    ).loss_BL
    assert loss_BL[0, 0] == 0
    assert loss_BL[0, 3] == 0
    assert loss_BL.abs().max() == {"k1": 20, "k2": 200, "k3": 10}[estimator]


@pytest.mark.parametrize("place", ["loss", "reward"])
def test_where_the_estimate_has_no_gradient_is_counted(place: str) -> None:
    """k3 ends where p_ref / p passes 13.6 or p / p_ref e^11, the log-ratio at 20 nats."""
    d = [0.0, 2.5, -2.5, -2.61, -2.62, -5.0, -19.0, -21.0, 10.9, 11.1, 19.0, 21.0]
    ref_BL = torch.zeros(1, len(d) + 1).double()
    batch = batch_of([[0] * len(d) + [-1]]).with_scores(ref=scores(ref_BL))
    for estimator, low, high in (("k1", -20.0, 20.0), ("k2", -20.0, 20.0), ("k3", -2.611, 11.0)):
        new_BL = torch.tensor([[*d, NAN]], dtype=torch.float64, requires_grad=True)
        out = build("kl", estimator=estimator, place=place).token_loss(
            scores(new_BL), batch, NOTHING
        )
        clamped = [x < low or x > high for x in d]
        assert out.metrics["kl_clamped"][0].tolist() == [*map(float, clamped), 0.0]
        if place == "loss":
            out.loss_BL.sum().backward()
            assert new_BL.grad is not None
            moved = (new_BL.grad[0, : len(d)] != 0).tolist()
            assert moved == [
                not cut and not (x == 0 and estimator != "k1")
                for x, cut in zip(d, clamped, strict=True)
            ]


def test_as_a_reward_it_has_no_gradient() -> None:
    batch, _, logprobs_BL = coin()
    kl = build("kl", estimator="k1", place="reward")
    batch = batch.with_scores(engine=scores(logprobs_BL))
    reward_BL = kl.reward_BL(batch)
    assert not reward_BL.requires_grad
    ref_BL = batch.logprobs_of("ref")
    torch.testing.assert_close(reward_BL, ref_BL - logprobs_BL.detach())
    out = kl.token_loss(scores(logprobs_BL), batch, NOTHING)
    assert out.loss_BL.eq(0).all()
    assert not out.loss_BL.requires_grad
    old_BL = torch.tensor([[-1.0, -1.0]]).double()
    torch.testing.assert_close(kl.reward_BL(batch.with_scores(old=scores(old_BL))), ref_BL - old_BL)
    assert build("kl").reward_BL(batch) is None


def test_entropy_is_a_bonus() -> None:
    logits = torch.tensor(P, dtype=torch.float64).log().requires_grad_()
    logp = logits.log_softmax(0)
    entropy = -(logp.exp() * logp).sum()
    batch = batch_of([[0, -1]])
    entropy_BL = torch.stack([entropy, torch.tensor(NAN)])[None]
    out = build("entropy").token_loss(scores(torch.zeros(1, 2), entropy=entropy_BL), batch, NOTHING)
    assert out.loss_BL.tolist() == [[pytest.approx(-0.610864, abs=1e-6), 0.0]]
    assert out.metrics["entropy"].tolist() == [[pytest.approx(0.610864, abs=1e-6), 0.0]]
    out.loss_BL[0, 0].backward()
    assert logits.grad is not None
    assert logits.grad[0] > 0, "descending the loss makes the likelier side less likely"


def test_what_is_missing_is_said() -> None:
    batch = batch_of([[0]])
    assert build("kl").needs() == {"ref_logprobs"}
    assert build("entropy").probes().keys() == {"entropy"}
    assert not build("kl").probes()
    with pytest.raises(UserError, match=r"no scores 'ref'.* lists Need.REF_LOGPROBS in 'requires'"):
        build("kl").token_loss(scores(torch.zeros(1, 1)), batch, NOTHING)
