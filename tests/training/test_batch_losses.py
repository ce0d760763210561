"""Losses of whole episodes and groups: by hand, and exact however a batch is cut and packed."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor
from turnrl.agents.models.forward import Scores, score
from turnrl.foundation.errors import PluginError, UserError
from turnrl.training.batch import TokenBatch
from turnrl.training.boundaries import batch_loss
from turnrl.training.learner.config import LearnerConfig
from turnrl.training.learner.gradients import Gradients
from turnrl.training.losses.base import LOSSES, PolicyLoss
from turnrl.training.objective import LossOutput
from turnrl.training.regularizers.base import Regularizer

from .builders import NAN, batch_of, entry, golden, golden_batch, scores
from .test_update import advantages, model
from .test_update import batch_of as played


def build(name: str, **fields: Any) -> PolicyLoss:
    return LOSSES.build({"name": name, **fields})


def value_and_gradient(
    loss: PolicyLoss, batch: TokenBatch, new_BL: Tensor, advantages_BL: Tensor
) -> tuple[float, Tensor, dict[str, float]]:
    new_BL = new_BL.clone().requires_grad_()
    value, metrics = loss.batch_loss(scores(new_BL), batch, advantages_BL)
    (gradient_BL,) = torch.autograd.grad(value, new_BL)
    return float(value.detach()), gradient_BL, metrics


def row(log_ratios: list[float]) -> tuple[TokenBatch, Tensor]:
    """One episode of one sequence, and its new log-probabilities."""
    new_BL = torch.tensor([log_ratios], dtype=torch.float64) - 1.0
    batch = batch_of([[0] * len(log_ratios)])
    return batch.with_scores(engine=scores(torch.full_like(new_BL, -1.0))), new_BL


# gspo.


def test_reference_gspo() -> None:
    """Of volcengine/verl and of huggingface/trl, which agree."""
    batch, _ = golden_batch()
    old_BL = torch.where(batch.mask_BL, golden("old_logprobs"), NAN)
    batch = batch.with_scores(old=scores(old_BL))
    new_BL = torch.where(batch.mask_BL, golden("new_logprobs"), NAN)
    advantages_BL = golden("seq_advantages")[:, None] * golden("mask")
    value, gradient_BL, _ = value_and_gradient(
        build("gspo", clip_low=0.2, clip_high=0.2), batch, new_BL, advantages_BL
    )
    expected, atol = entry("gspo")
    assert value == pytest.approx(float(expected), abs=atol)
    assert gradient_BL.isfinite().all()
    assert not gradient_BL[~batch.mask_BL].any()


def test_gspo_by_hand() -> None:
    batch, new_BL = row([0.2, -0.1, 0.5])
    value, gradient_BL, metrics = value_and_gradient(build("gspo"), batch, new_BL, torch.ones(1, 3))
    assert value == pytest.approx(-1.0004)
    assert not gradient_BL.any(), "s is 1.221403, far above the clip range"
    assert metrics["clip_fraction_high"] == 1
    batch, new_BL = row([6e-4, -3e-4, 0.0])
    value, gradient_BL, metrics = value_and_gradient(build("gspo"), batch, new_BL, torch.ones(1, 3))
    s = math.exp(1e-4)
    assert value == pytest.approx(-s)
    assert gradient_BL.tolist() == [[pytest.approx(-s / 3)] * 3]
    assert metrics["clip_fraction_high"] == metrics["clip_fraction_low"] == 0


def test_gspo_over_turns_has_one_ratio_per_turn() -> None:
    new_BL = torch.tensor([[0.1, 0.3, 9.0, 0.6], [0.0, 0.2, 9.0, 9.0]], dtype=torch.float64)
    batch = batch_of([[0, 0, -1, 1], [2, 2, -1, -1]], episodes=[0, 0])
    loss = build("gspo", over="turn", clip_high=10.0, aggregation="seq_mean_token_sum")
    value, gradient_BL, _ = value_and_gradient(loss, batch, new_BL, torch.ones(2, 4))
    a, b, c = math.exp(0.2), math.exp(0.6), math.exp(0.1)
    assert value == pytest.approx(-(2 * a + b + 2 * c))
    expected = [[-a, -a, 0, -b], [-c, -c, 0, 0]]
    torch.testing.assert_close(gradient_BL, torch.tensor(expected, dtype=torch.float64))


def test_gspo_is_the_clipped_loss_of_its_ratio() -> None:
    """With one advantage per episode, the token form has the gradient of the sequence form."""
    batch = batch_of([[0, -1, 0, 0], [1, 1, -1, -1], [0, 0, 0, -1]], episodes=[0, 0, 1])
    new_BL = 1e-4 * torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double()
    advantage_E = torch.tensor([0.7, -1.3], dtype=torch.float64)
    advantages_BL = advantage_E[batch.episode_B][:, None] * batch.mask_BL
    value, gradient_BL, _ = value_and_gradient(build("gspo"), batch, new_BL, advantages_BL)
    free_BL = new_BL.clone().requires_grad_()
    sums_E = batch.per_episode(torch.where(batch.mask_BL, free_BL, 0.0).sum(1))
    s_E = (sums_E / batch.tokens_E).exp()
    plain = torch.maximum(-advantage_E * s_E, -advantage_E * s_E.clamp(1 - 3e-4, 1 + 4e-4)).mean()
    assert value == pytest.approx(float(plain.detach()))
    torch.testing.assert_close(gradient_BL, torch.autograd.grad(plain, free_BL)[0])


# real.


def group_of(won: list[bool], groups: list[int] | None = None) -> TokenBatch:
    """Episodes of one token each, whose old log-probabilities are 0."""
    batch = batch_of([[0]] * len(won), groups=groups)
    return replace(batch, success_E=torch.tensor(won))


def test_real_by_hand() -> None:
    batch = group_of([True, False, False])
    z = torch.tensor([[0.1], [-0.2], [0.3]], dtype=torch.float64)
    value, gradient_BL, metrics = value_and_gradient(build("real"), batch, z, torch.zeros(3, 1))
    assert value == pytest.approx(1.848739, abs=1e-6)
    assert gradient_BL.flatten().tolist() == pytest.approx(
        [-0.900332, 0.383869, 1.043465], abs=1e-6
    )
    assert metrics["margin"] == pytest.approx(0.1 - 0.05)


@pytest.mark.parametrize(
    ("won", "groups", "expected"),
    [
        ([True, False, False, False], None, math.log(2) + math.log(4)),
        ([True, True], None, math.log(3)),
        ([False], None, math.log(2)),
        ([True, True, False], [0, 1, 1], (math.log(2) + 2 * math.log(2)) / 2),
    ],
)
def test_real_on_the_first_update(
    won: list[bool], groups: list[int] | None, expected: float
) -> None:
    zero_BL = torch.zeros(len(won), 1, dtype=torch.float64)
    value, _, _ = value_and_gradient(build("real"), group_of(won, groups), zero_BL, zero_BL)
    assert value == pytest.approx(expected)


def test_real_at_extremes_and_without_a_token() -> None:
    far = torch.tensor([[-1e5], [1e5]], dtype=torch.float64)
    value, gradient_BL, _ = value_and_gradient(build("real"), group_of([True, False]), far, far)
    assert value == pytest.approx(4e5)
    assert gradient_BL.flatten().tolist() == [-2.0, 2.0]
    silent = replace(batch_of([[-1], [0]], turns=[1, 1]), success_E=torch.tensor([True, True]))
    value, _, metrics = value_and_gradient(
        build("real"), silent, torch.zeros(2, 1).double(), torch.zeros(2, 1)
    )
    assert value == pytest.approx(math.log(2))
    assert metrics == {"margin": 0.0}
    with pytest.raises(UserError, match="importance multiplies losses per token"):
        build("real", importance={})


# Exact however it is cut.


class Spread(Regularizer):
    """A number of whole episodes that is made of two kinds of scores."""

    granularity: ClassVar[Literal["token", "batch"]] = "batch"
    name: Literal["spread"] = "spread"

    def probes(self) -> Any:
        return {"peak": lambda logprobs_nV, target_n: logprobs_nV.max(1).values}

    def batch_loss(
        self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        sums_E = batch.per_episode(scores.logprobs_BL.sum(1))
        peaks_E = batch.per_episode(scores.of["peak"].sum(1))
        return (sums_E * peaks_E).var(), {"spread": float(sums_E.var())}


CASES: list[dict[str, Any]] = [
    {"loss": {"name": "gspo", "clip_low": 0.2, "clip_high": 0.2}},
    {"loss": {"name": "gspo", "over": "turn", "clip_low": 0.2, "clip_high": 0.2}},
    {"loss": {"name": "real"}},
    {
        "loss": {"name": "real"},
        "regularizers": [{"name": f"{__name__}:Spread"}, {"name": "entropy"}],
    },
]


def moved() -> Any:
    """The policy that played, in float64, some way from where it was."""
    made, noise = copy.deepcopy(model()).double(), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.03 * torch.randn(p.shape, generator=noise, dtype=p.dtype)
    return made


def gradients_of(policy: Any) -> Tensor:
    found = [p.grad.flatten() for p in policy.parameters() if p.grad is not None]
    return torch.cat(found)


def whole_graph(config: LearnerConfig, batch: TokenBatch, advantages_BL: Tensor) -> Tensor:
    """The gradient of all terms, with every activation of the batch in one graph."""
    policy = moved()
    terms = [config.loss, *config.regularizers]
    probes = {name: probe for term in terms for name, probe in term.probes().items()}
    found = score(policy, batch.tokens_BL, batch.mask_BL, probes=probes)
    total = torch.zeros((), dtype=torch.float64)
    for term in terms:
        if term.granularity == "batch":
            value, _ = term.batch_loss(found, batch, advantages_BL)
        else:
            weights_BL = config.loss.weights_BL(batch, torch.float64)
            value = (term(found, batch, advantages_BL).loss_BL * weights_BL).sum()
        total = total + term.coefficient * value
    total.backward()
    return gradients_of(policy)


@pytest.mark.parametrize("context", ["full_history", "sliding_window"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_cut_has_the_gradient_of_one_whole_graph(case: dict[str, Any], context: str) -> None:
    batch = played(context)
    batch = replace(batch, success_E=torch.arange(batch.episodes) % 3 == 0)
    advantages_BL = advantages(batch).double()
    for budget in (60, 120, 10_000):
        config = LearnerConfig.model_validate({"token_budget": budget, **case})
        expected = whole_graph(config, batch, advantages_BL)
        policy = moved()
        work = Gradients(config, policy, [config.loss, *config.regularizers])
        assert work.accumulate(batch, advantages_BL)
        assert float(expected.norm()) > 1e-3
        assert float((gradients_of(policy) - expected).norm() / expected.norm()) < 1e-6
    if context == "sliding_window":
        cuts = [set(batch.episode_B[rows].tolist()) for rows in batch.split(120)]
        assert sum(map(len, cuts)) > batch.episodes, "episodes are cut as well"


@pytest.mark.parametrize("name", ["gspo", "real"])
def test_a_first_update_needs_no_pass_of_its_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the trainer's own log-probabilities are known, they are the first pass's scores; as the
    denominator of the ratio they still have no gradient.
    """
    batch, found = played("full_history"), []
    batch = replace(batch, success_E=torch.arange(batch.episodes) % 3 == 0)
    config = LearnerConfig.model_validate({"loss": {"name": name}})
    for known in (batch, batch.with_scores(old=batch.scores["engine"])):
        policy = copy.deepcopy(model())
        work = Gradients(config, policy, [config.loss])
        assert work.accumulate(known, advantages(batch))
        found.append(gradients_of(policy))
        monkeypatch.setattr("turnrl.training.learner.gradients.score_batch", None)
    assert float(found[0].norm()) > 1e-3
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-5)
    assert not batch.logprobs_of("engine").requires_grad


# What goes wrong is named.


class Wrong(PolicyLoss):
    """Answers in another shape than a batch loss has."""

    granularity: ClassVar[Literal["token", "batch"]] = "batch"
    name: Literal["wrong"] = "wrong"
    how: str = "tensor"

    def batch_loss(self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor) -> Any:
        return {
            "tensor": scores.logprobs_BL.sum(),
            "output": LossOutput(scores.logprobs_BL),
            "per token": (scores.logprobs_BL, {}),
        }[self.how]


class TokenOnly(PolicyLoss):
    granularity: ClassVar[Literal["token", "batch"]] = "batch"
    name: Literal["token_only"] = "token_only"

    def token_loss(self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor) -> LossOutput:
        return LossOutput(scores.logprobs_BL)


def test_a_wrong_answer_is_named() -> None:
    batch, new_BL = row([0.0])
    for how, said in (
        ("tensor", "answered Tensor: expected its value and a dict"),
        ("output", "answered LossOutput: expected its value and a dict"),
        ("per token", r"answered a tensor \[1, 1\]: expected \[\], \[\]: one number"),
    ):
        with pytest.raises(PluginError, match=rf"loss 'wrong' {said}"):
            batch_loss(Wrong(how=how), scores(new_BL), batch, new_BL)
    with pytest.raises(TypeError, match="TokenOnly has no method 'batch_loss'"):
        TokenOnly()
