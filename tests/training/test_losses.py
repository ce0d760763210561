"""Policy losses and the critic's loss: reference numbers, gradients by hand, and invariance."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from turnrl.foundation.errors import UserError
from turnrl.training.batch import TokenBatch
from turnrl.training.boundaries import advantages_of
from turnrl.training.credit.base import CREDITS
from turnrl.training.learner.value_loss import explained_variance, value_loss, value_weights
from turnrl.training.losses.base import LOSSES, PolicyLoss
from turnrl.training.objective import LossOutput
from turnrl.training.regularizers.base import REGULARIZERS

from .builders import (
    NAN,
    batch_of,
    by_token,
    entry,
    env_rewards,
    golden,
    golden_batch,
    numbered,
    random_groups,
    scores,
    table,
)

AGGREGATIONS = [
    "token_mean",
    "seq_mean_token_mean",
    "seq_mean_token_sum",
    "seq_mean_token_sum_norm",
]
MODES = ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


def build(name: str, **fields: Any) -> PolicyLoss:
    return LOSSES.build({"name": name, **fields})


def total(loss: PolicyLoss, out: LossOutput, batch: TokenBatch) -> Tensor:
    return (out.loss_BL * loss.weights_BL(batch, torch.float64)).sum()


def tokens(old: list[float], new: list[float]) -> tuple[TokenBatch, Tensor]:
    """One turn of one episode, with its old log-probabilities; the new ones are parameters."""
    sampled_BL = torch.tensor([old], dtype=torch.float64)
    batch = batch_of([[0] * len(old)]).with_scores(engine=scores(sampled_BL))
    return batch, torch.tensor([new], dtype=torch.float64, requires_grad=True)


def ratios(
    rho: list[float], advantages: list[float], **fields: Any
) -> tuple[list[float], list[float], LossOutput]:
    """Losses and gradients of ppo_clip at given ratios."""
    batch, new_BL = tokens([-1.0] * len(rho), [-1.0 + math.log(r) for r in rho])
    out = build("ppo_clip", **fields)(
        scores(new_BL), batch, torch.tensor([advantages], dtype=torch.float64)
    )
    out.loss_BL.sum().backward()
    assert new_BL.grad is not None
    return out.loss_BL[0].tolist(), new_BL.grad[0].tolist(), out


# Reference numbers.


def on_golden(loss: PolicyLoss, widen: float = 1.0) -> Tensor:
    batch, _ = golden_batch()
    old_BL = golden("old_logprobs")
    batch = batch.with_scores(old=scores(torch.where(batch.mask_BL, old_BL, NAN)))
    new_BL = torch.where(batch.mask_BL, old_BL + widen * (golden("new_logprobs") - old_BL), NAN)
    out = loss(scores(new_BL), batch, golden("seq_advantages")[:, None] * golden("mask"))
    return total(loss, out, batch)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_reference_clip(aggregation: str) -> None:
    expected, atol = entry(f"ppo_clip_{aggregation}")
    loss = build("ppo_clip", aggregation=aggregation, norm_length=12)
    torch.testing.assert_close(on_golden(loss), expected, atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("cispo_two_sided", {"clip_low": 0.2, "clip_high": 0.2}),
        ("cispo_upper_1_2", {"clip_high": 0.2}),
    ],
)
def test_reference_cispo(name: str, fields: dict[str, Any]) -> None:
    """Both bounds as in volcengine/verl, the upper one as in huggingface/trl."""
    expected, atol = entry(name)
    torch.testing.assert_close(on_golden(build("cispo", **fields)), expected, atol=atol, rtol=0)


@pytest.mark.parametrize(("name", "dual"), [("ppo_clip_wide", None), ("ppo_dual_clip_wide", 3.0)])
def test_reference_dual_clip(name: str, dual: float | None) -> None:
    expected, atol = entry(name)
    torch.testing.assert_close(
        on_golden(build("ppo_clip", dual_clip=dual), 6.0), expected, atol=atol, rtol=0
    )


def test_reference_clip_with_kl() -> None:
    expected, atol = entry("ppo_clip_k3_beta_0_04")
    loss = build("ppo_clip", aggregation="seq_mean_token_mean")
    kl = REGULARIZERS.build({"name": "kl", "estimator": "k3", "coefficient": 0.04})
    batch = golden_batch()[0].with_scores(ref=scores(golden("ref_logprobs")))
    term = total(
        loss, kl.token_loss(scores(golden("new_logprobs")), batch, torch.zeros(8, 12)), batch
    )
    torch.testing.assert_close(on_golden(loss) + kl.coefficient * term, expected, atol=atol, rtol=0)


def test_reference_value_clip() -> None:
    mask, (returns, _), (expected, atol) = (
        golden("mask").bool(),
        entry("gae_returns"),
        entry("value_clip"),
    )
    values = torch.where(mask, golden("values"), NAN)
    loss, metrics = value_loss(values + 0.3, values, torch.where(mask, returns, NAN), 0.2)
    torch.testing.assert_close(loss, expected, atol=atol, rtol=0)
    assert 0 < metrics["clipped"] < 1


# Small cases by hand.


@pytest.mark.parametrize(
    ("fields", "rho", "advantage", "loss", "gradient"),
    [
        ({}, 1.5, 1.0, -1.2, 0.0),
        ({}, 0.5, -1.0, 0.8, 0.0),
        ({}, 0.5, 1.0, -0.5, -0.5),
        ({}, 1.5, -1.0, 1.5, 1.5),
        ({}, 1.25, 1.0, -1.2, 0.0),
        ({"clip_high": 0.28}, 1.25, 1.0, -1.25, -1.25),
        ({"clip_high": 0.28}, 1.5, 1.0, -1.28, 0.0),
        ({}, 5.0, -1.0, 5.0, 5.0),
        ({"dual_clip": 3.0}, 5.0, -1.0, 3.0, 0.0),
        ({"dual_clip": 3.0}, 2.0, -1.0, 2.0, 2.0),
        ({}, 3.0, 0.0, 0.0, 0.0),
        ({}, 1.0, 2.0, -2.0, -2.0),
    ],
)
def test_clip_by_hand(
    fields: dict[str, Any], rho: float, advantage: float, loss: float, gradient: float
) -> None:
    losses, gradients, _ = ratios([rho], [advantage], **fields)
    assert losses == pytest.approx([loss])
    assert gradients == pytest.approx([gradient])


def test_clip_metrics() -> None:
    _, _, out = ratios([1.5, 1.5, 0.5, 0.5, 5.0, 1.0], [1, -1, 1, -1, -1, 1], dual_clip=3.0)
    assert out.metrics["clip_fraction_high"].tolist() == [[1, 0, 0, 0, 0, 0]]
    assert out.metrics["clip_fraction_low"].tolist() == [[0, 0, 0, 1, 0, 0]]
    assert out.metrics["clip_fraction_dual"].tolist() == [[0, 0, 0, 0, 1, 0]]
    assert out.metrics["approx_kl"][0, 0].item() == pytest.approx(0.5 - math.log(1.5))
    assert not any(metric.requires_grad for metric in out.metrics.values())


def test_ratio_is_bounded() -> None:
    batch, new_BL = tokens([-1000.0, -1.0], [-1.0, -1000.0])
    out = build("ppo_clip")(scores(new_BL), batch, torch.tensor([[-1.0, 1.0]]))
    out.loss_BL.sum().backward()
    assert out.loss_BL[0].tolist() == pytest.approx([math.exp(20), -math.exp(-20)])
    assert new_BL.grad is not None
    assert new_BL.grad.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(("rho", "weight"), [(1.5, 1.2), (1.1, 1.1), (0.3, 0.8)])
def test_cispo_goes_on_where_the_weight_is_bounded(rho: float, weight: float) -> None:
    batch, new_BL = tokens([-0.5 - math.log(rho), 0.0], [-0.5, 0.0])
    out = build("cispo", clip_low=0.2, clip_high=0.2)(
        scores(new_BL), batch, torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    )
    out.loss_BL.sum().backward()
    assert out.loss_BL.tolist() == [[pytest.approx(0.5 * weight), 0.0]]
    assert new_BL.grad is not None
    assert new_BL.grad.tolist() == [[pytest.approx(-weight), 0.0]]
    assert out.metrics["clip_fraction_high"].tolist() == [[float(rho > 1.2), 0.0]]
    assert out.metrics["clip_fraction_low"].tolist() == [[float(rho < 0.8), 0.0]]
    unbounded = build("cispo")(scores(new_BL), batch, torch.ones(1, 2))
    assert float(unbounded.loss_BL[0, 0].detach()) == pytest.approx(0.5 * min(rho, 1.28))


def test_reinforce_is_minus_advantage_times_logprob() -> None:
    batch, new_BL = tokens([0.0, 0.0], [-0.5, -2.0])
    out = build("reinforce")(
        scores(new_BL), batch, torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    )
    out.loss_BL.sum().backward()
    assert out.loss_BL.tolist() == [[1.0, -2.0]]
    assert new_BL.grad is not None
    assert new_BL.grad.tolist() == [[-2.0, 1.0]]


def test_fresh_clip_has_the_gradient_of_reinforce() -> None:
    gradients = []
    for name in ("ppo_clip", "reinforce", "cispo"):
        batch, new_BL = tokens([-0.3, -1.0, -2.0], [-0.3, -1.0, -2.0])
        build(name)(
            scores(new_BL), batch, torch.tensor([[1.0, -2.0, 0.0]])
        ).loss_BL.sum().backward()
        gradients.append(new_BL.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[2], gradients[1])


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token_mean", 1.75),
        ("seq_mean_token_mean", 2.5),
        ("seq_mean_token_sum", 3.5),
        ("seq_mean_token_sum_norm", 7 / 6),
    ],
)
@pytest.mark.parametrize("cut", [False, True])
def test_aggregation_by_hand(aggregation: str, expected: float, cut: bool) -> None:
    """Rows of losses 1, 1, 1 and 4; a masked episode counts nowhere; pieces are one sequence."""
    if cut:
        batch = batch_of([[0, -1, 0], [1], [0], [-1]], episodes=[0, 0, 1, 2], turns=[2, 1, 0])
        loss_BL = torch.tensor([[1, NAN, 1], [1, NAN, NAN], [4, NAN, NAN], [NAN] * 3])
    else:
        batch = batch_of([[0, 0, 0], [0], [-1]], turns=[1, 1, 0])
        loss_BL = torch.tensor([[1.0, 1, 1], [4, NAN, NAN], [NAN] * 3])
    weights_BL = build("reinforce", aggregation=aggregation).of_length(3).weights_BL(batch)
    assert weights_BL.dtype == torch.float32
    assert not weights_BL[~batch.mask_BL].any()
    assert float((loss_BL.nan_to_num() * weights_BL).sum()) == pytest.approx(expected)


def test_the_constant_of_dr_grpo_does_not_depend_on_the_batch() -> None:
    """It belongs to the recipe: a longer episode or a wider batch changes no token's weight."""
    loss = build("reinforce", aggregation="seq_mean_token_sum_norm")
    for rows in ([[0, 0], [0]], [[0, 0], [0] * 9], [[-1, 0, 0, -1, -1, -1], [0]]):
        assert loss.of_length(20).weights_BL(batch_of(rows)).max() == pytest.approx(1 / 40)
    assert build("reinforce", norm_length=7).of_length(20).norm_length == 7
    with pytest.raises(ValueError, match="norm_length"):
        loss.weights_BL(batch_of([[0]]))


@pytest.mark.parametrize("name", ["ppo_clip", "reinforce", "cispo"])
def test_what_was_not_sampled_reaches_nothing(name: str) -> None:
    batch, _ = golden_batch()
    old_BL = torch.where(batch.mask_BL, golden("old_logprobs"), NAN)
    batch = batch.with_scores(old=scores(old_BL))
    new_BL = torch.where(batch.mask_BL, golden("new_logprobs"), NAN).requires_grad_()
    loss = build(name)
    out = loss(scores(new_BL), batch, golden("mask"))
    total(loss, out, batch).backward()
    assert new_BL.grad is not None
    assert new_BL.grad.isfinite().all()
    assert not new_BL.grad[~batch.mask_BL].any()
    assert not out.loss_BL[~batch.mask_BL].any()


def test_float32_stays_float32() -> None:
    batch, _ = tokens([-1.0], [-1.0])
    batch = batch.with_scores(engine=scores(batch.logprobs_of("engine").float()))
    for name in ("ppo_clip", "reinforce", "cispo"):
        assert (
            build(name)(
                scores(torch.tensor([[-1.0]])), batch, torch.ones(1, 1).double()
            ).loss_BL.dtype
            == torch.float32
        )


# Engine against trainer.


@pytest.mark.parametrize(
    ("mode", "fields", "expected"),
    [
        ("token_truncate", {}, [math.exp(0.3), 2.0, math.exp(-3.0)]),
        ("token_mask", {}, [math.exp(0.3), 0.0, 0.0]),
        ("token_mask", {"cap": 3.0, "low": 0.01}, [math.exp(0.3), math.e, math.exp(-3.0)]),
        ("sequence_truncate", {}, [math.exp(-1.7)] * 3),
        ("sequence_truncate", {"cap": 1.0}, [math.exp(-1.7)] * 3),
        ("sequence_mask", {}, [0.0] * 3),
        ("sequence_mask", {"low": 0.1}, [math.exp(-1.7)] * 3),
    ],
)
def test_importance_by_hand(mode: str, fields: dict[str, Any], expected: list[float]) -> None:
    """One episode in two sequences; the trainer's -1, -1, -1 against the engine's -1.3, -2, 2."""
    sampled_BL = torch.tensor([[-1.3, NAN, -2.0], [2.0, NAN, NAN]], dtype=torch.float64)
    old_BL = torch.tensor([[-1.0, NAN, -1.0], [-1.0, NAN, NAN]], dtype=torch.float64)
    old_BL.requires_grad_()
    batch = batch_of([[0, -1, 0], [1]], episodes=[0, 0])
    batch = batch.with_scores(engine=scores(sampled_BL), old=scores(old_BL))
    loss = build("reinforce", importance={"mode": mode, **fields})
    assert loss.needs() == {"old_logprobs"}
    batch = replace(batch, signals=loss.prepare(batch)[0])
    new_BL = torch.full((2, 3), -1.0, dtype=torch.float64, requires_grad=True)
    out = loss(scores(new_BL), batch, batch.mask_BL.double())
    assert out.loss_BL[batch.mask_BL].tolist() == pytest.approx(expected)
    out.loss_BL.sum().backward()
    assert old_BL.grad is None
    cut = out.metrics["importance_cut"][batch.mask_BL].bool().tolist()
    assert cut == [abs(e - w) > 1e-9 for e, w in zip(expected, _uncut(mode), strict=True)]
    assert out.metrics["importance_weight"][batch.mask_BL].tolist() == pytest.approx(expected)


def _uncut(mode: str) -> list[float]:
    return (
        [math.exp(-1.7)] * 3
        if mode.startswith("sequence")
        else [math.exp(0.3), math.e, math.exp(-3.0)]
    )


def engine_gaps(
    *ratios: list[float], rows: list[list[int]] | None = None, episodes: list[int] | None = None
) -> TokenBatch:
    """Episodes whose tokens have these ratios of trainer to engine."""
    batch = batch_of(rows or [[0] * len(row) for row in ratios], episodes=episodes)
    old_BL = torch.full(batch.turn_BL.shape, NAN, dtype=torch.float64)
    old_BL[batch.mask_BL] = torch.tensor(
        [math.log(ratio) for row in ratios for ratio in row], dtype=torch.float64
    )
    sampled_BL = torch.where(batch.mask_BL, 0.0, old_BL)
    return batch.with_scores(engine=scores(sampled_BL), old=scores(old_BL))


@pytest.mark.parametrize(("mode", "cap"), [("token_truncate", 2.0), ("sequence_truncate", 3.0)])
def test_a_sequence_may_weigh_more_than_a_token(mode: str, cap: float) -> None:
    loss = build("reinforce", importance={"mode": mode})
    batch = engine_gaps([5.0], [0.9])
    signals, metrics = loss.prepare(batch)
    assert signals["importance_BL"][:, 0].tolist() == pytest.approx([cap, 0.9])
    assert metrics["importance_max"] == pytest.approx(5.0)
    assert loss.importance is not None
    assert loss.importance.model_dump()["cap"] is None


@pytest.mark.parametrize(
    ("mode", "ratios", "acting"),
    [
        ("token_truncate", [[1.5, 0.5], [1.0]], [1.5, 0.5, 1.0]),
        ("token_truncate", [[9.0, 0.1], [1.0]], [2.0, 0.1, 1.0]),
        ("token_mask", [[9.0, 0.8], [1.0]], [0.0, 0.8, 1.0]),
        ("token_mask", [[9.0, 0.01], [9.0]], [0.0, 0.0, 0.0]),
        ("sequence_truncate", [[1.5, 0.5], [1.2]], [0.75, 1.2]),
        ("sequence_truncate", [[3.0, 2.0], [1.2]], [3.0, 1.2]),
        ("sequence_mask", [[3.0, 2.0], [1.2]], [0.0, 1.2]),
        ("token_truncate", [[1.0, 1.0], [1.0]], [1.0]),
    ],
)
def test_the_effective_sample_size_by_hand(
    mode: str, ratios: list[list[float]], acting: list[float]
) -> None:
    """``(sum w)^2 / sum w^2 / n`` of the weights that act: one a token, or one an episode."""
    squares = sum(w * w for w in acting)
    expected = sum(acting) ** 2 / squares / len(acting) if squares else 0.0
    loss = build("reinforce", importance={"mode": mode})
    whole = engine_gaps(*ratios)
    cut = engine_gaps(*ratios, rows=[[0, -1], [1], [-1, 0]], episodes=[0, 0, 1])
    for batch in (whole, cut):
        _, metrics = loss.prepare(batch)
        assert metrics["importance_ess"] == pytest.approx(expected)
        raw = (
            [math.prod(row) for row in ratios]
            if "sequence" in mode
            else [r for row in ratios for r in row]
        )
        assert metrics["importance_max"] == pytest.approx(max(raw))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("mode", ["token_mask", "sequence_mask"])
def test_masked_tokens_leave_every_mean(mode: str, aggregation: str) -> None:
    """The weights are those of a batch in which they were never sampled."""
    loss = build("reinforce", aggregation=aggregation, importance={"mode": mode}).of_length(10)
    batch = engine_gaps([9.0, 1.1, 0.9], [9.0], [1.2, 0.8])
    batch = replace(batch, signals=loss.prepare(batch)[0])
    kept_BL = batch.mask_BL & (batch.signals["importance_cut_BL"] == 0)
    assert 0 < int(kept_BL.sum()) < int(batch.mask_BL.sum())
    without = replace(batch, turn_BL=torch.where(kept_BL, batch.turn_BL, -1), signals={})
    plain = build("reinforce", aggregation=aggregation).of_length(10)
    torch.testing.assert_close(loss.weights_BL(batch), plain.weights_BL(without))
    truncate = build(
        "reinforce", aggregation=aggregation, importance={"mode": mode.replace("mask", "truncate")}
    )
    truncate = truncate.of_length(10)
    batch = replace(batch, signals=truncate.prepare(batch)[0])
    torch.testing.assert_close(truncate.weights_BL(batch), plain.weights_BL(batch))


def test_everything_may_be_masked() -> None:
    loss = build("reinforce", importance={"mode": "token_mask"})
    batch = engine_gaps([9.0, 9.0])
    signals, metrics = loss.prepare(batch)
    assert metrics == {"importance_max": pytest.approx(9.0), "importance_ess": 0.0}
    assert not loss.weights_BL(replace(batch, signals=signals)).any()
    nothing = engine_gaps([], rows=[[-1]])
    assert loss.prepare(nothing)[1] == {"importance_max": 0.0, "importance_ess": 0.0}


def test_importance_is_off_by_default_and_said_when_wrong() -> None:
    assert build("ppo_clip").prepare(tokens([-1.0], [-1.0])[0]) == ({}, {})
    assert build("ppo_clip").needs() == frozenset()
    loss = build("ppo_clip", importance={})
    batch, new_BL = tokens([-1.0], [-1.0])
    with pytest.raises(UserError, match=r"no scores 'old'.* lists Need.OLD_LOGPROBS in 'requires'"):
        loss.prepare(batch)
    with pytest.raises(ValueError, match="prepare"):
        loss(scores(new_BL), batch, torch.ones(1, 1))
    with pytest.raises(UserError, match="low"):
        build("ppo_clip", importance={"mode": "token_truncate", "low": 0.5})
    with pytest.raises(UserError, match="clip_hihg"):
        build("ppo_clip", clip_hihg=0.3)


# Packing and cutting.


NAMED = ("bnpo", "igpo", "tag_group")
"""Estimators that want to know the range or the names of the rewards."""
CREDITS_TESTED: list[dict[str, Any]] = [
    *({"name": name} for name in CREDITS.names() if name not in NAMED),
    {"name": "bnpo", "low": -6.0, "high": 6.0},
    {"name": "igpo", "process": "environment"},
    {"name": "tag_group", "reward": "environment"},
    {"name": "gae", "over": "turn"},
    {"name": "reinforce_pp", "baseline": "group"},
]
LOSSES_TESTED: list[dict[str, Any]] = [
    {"name": "reinforce", "aggregation": "seq_mean_token_mean"},
    {"name": "cispo", "clip_low": 0.2, "clip_high": 0.1},
    *({"name": "ppo_clip", "aggregation": a} for a in AGGREGATIONS),
    *(
        {"name": "ppo_clip", "dual_clip": 1.5, "importance": {"mode": mode, "cap": 1.2}}
        for mode in MODES
    ),
]


def loss_and_gradient(
    credit_config: dict[str, Any],
    loss_config: dict[str, Any],
    merge: bool,
    budget: int | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """The loss of random episodes whose log-probabilities are the parameters."""
    groups = random_groups(seed, gaps=0.1)
    number_of, noise = numbered(groups), torch.Generator().manual_seed(seed)
    old, new, values = (
        torch.randn(len(number_of), generator=noise, dtype=torch.float64) * 0.4 for _ in range(3)
    )
    new = (new + old).requires_grad_()
    batch = TokenBatch.pack(groups, merge=merge)
    batch = replace(
        batch.with_scores(
            old=scores(by_token(batch, number_of, old)),
            engine=scores(by_token(batch, number_of, old + 0.2 * values)),
        ),
        values_BL=by_token(batch, number_of, values),
        bootstrap_E=torch.ones(batch.episodes),
    )
    credit, loss = CREDITS.build(credit_config), LOSSES.build(loss_config).of_length(20)
    advantages_BL = advantages_of(credit, table(env_rewards(groups)), batch).values
    batch = replace(batch, signals=loss.prepare(batch)[0])
    weights_BL = loss.weights_BL(batch, torch.float64)
    result = torch.zeros((), dtype=torch.float64)
    for rows in batch.split(budget) if budget else [torch.arange(len(batch.lengths_B))]:
        micro = batch.select(rows)
        width = micro.turn_BL.shape[1]
        new_BL = by_token(micro, number_of, new)
        out = loss(scores(new_BL), micro, advantages_BL[rows, :width])
        result = result + (out.loss_BL * weights_BL[rows, :width]).sum()
    (gradient,) = torch.autograd.grad(result, new)
    return result.detach(), gradient


@pytest.mark.parametrize("loss_config", LOSSES_TESTED, ids=str)
def test_packing_does_not_change_the_loss(loss_config: dict[str, Any]) -> None:
    for credit_config in CREDITS_TESTED:
        one, other = (
            loss_and_gradient(credit_config, loss_config, merge) for merge in (True, False)
        )
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("loss_config", LOSSES_TESTED, ids=str)
@pytest.mark.parametrize("merge", [True, False])
def test_cutting_does_not_change_the_loss(loss_config: dict[str, Any], merge: bool) -> None:
    whole = loss_and_gradient({"name": "turn_return"}, loss_config, merge, seed=1)
    for budget in (1, 20, 45):
        cut = loss_and_gradient({"name": "turn_return"}, loss_config, merge, budget, seed=1)
        torch.testing.assert_close(cut, whole, atol=1e-12, rtol=1e-12)


# The critic.


def test_value_clip_by_hand() -> None:
    numbers = torch.tensor([[0.8]]), torch.tensor([[0.5]]), torch.tensor([[1.5]])
    loss, metrics = value_loss(*numbers, 0.2)
    assert float(loss) == pytest.approx(0.32)
    assert metrics["clipped"] == 1
    assert metrics["square"] == pytest.approx(0.49)
    assert float(value_loss(*numbers, None)[0]) == pytest.approx(0.245)


def test_value_targets_are_selected() -> None:
    values = torch.tensor([[1.0, NAN, 3.0]], requires_grad=True)
    loss, _ = value_loss(
        values, torch.tensor([[1.0, NAN, float("inf")]]), torch.tensor([[2.0, NAN, NAN]])
    )
    loss.backward()
    assert loss.item() == 0.5
    assert values.grad is not None
    assert values.grad.tolist() == [[-1, 0, 0]]
    loss, metrics = value_loss(values, values.detach(), torch.full((1, 3), NAN))
    assert loss.item() == 0
    assert all(math.isfinite(value) for value in metrics.values())


def test_value_loss_is_the_sum_of_its_cuts() -> None:
    noise = torch.Generator().manual_seed(0)
    values, old, returns = (torch.randn(6, 5, generator=noise) for _ in range(3))
    returns[torch.rand(6, 5, generator=noise) < 0.4] = NAN
    weights = value_weights(returns)
    whole, metrics = value_loss(values, old, returns)
    parts = [
        value_loss(values[r], old[r], returns[r], 0.2, weights[r]) for r in ([0, 4], [1], [2, 3, 5])
    ]
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole)
    for name, value in metrics.items():
        assert sum(part[name] for _, part in parts) == pytest.approx(value)


def test_explained_variance() -> None:
    returns = torch.tensor([0.0, 1.0, 2.0, NAN])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(torch.zeros(4), returns) == 0
    assert explained_variance(-returns, returns) == pytest.approx(-3)
    assert explained_variance(returns, torch.tensor([1.0, 1.0, NAN, NAN])) == 0
