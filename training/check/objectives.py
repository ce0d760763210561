"""The promises of policy losses and regularizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ...agents.models.forward import Scores
from ...foundation.checking import Rules, Skip
from ..batch import TokenBatch
from ..boundaries import batch_loss, token_loss
from ..losses.base import PolicyLoss
from ..objective import Objective
from .common import equal, untouched
from .samples import moved_logprobs, sample

SEEDS = range(6)
LOSS: Rules[Objective] = Rules()
REGULARIZER: Rules[Objective] = Rules()
Check = Callable[[Objective], str | None]


def _both(name: str, needs: tuple[str, ...] = ("answers",)) -> Callable[[Check], Check]:
    """Register a rule for losses and for regularizers."""

    def add(check: Check) -> Check:
        return REGULARIZER.rule(name, needs)(LOSS.rule(name, needs)(check))

    return add


def _batch(seed: int, *, merge: bool = True) -> TokenBatch:
    return sample(seed, merge=merge).batch


def _advantages(batch: TokenBatch) -> Tensor:
    """Make up advantages [B, L] of both signs, the same for a token however it was packed."""
    return (batch.tokens_BL.double() % 7 - 3) * batch.mask_BL


def _prepared(objective: Objective, batch: TokenBatch) -> TokenBatch:
    """Add to a batch what a loss computes once, before the batch is cut."""
    if not isinstance(objective, PolicyLoss):
        return batch
    return replace(batch, signals=batch.signals | objective.prepare(batch)[0])


def _scores(objective: Objective, batch: TokenBatch) -> Scores:
    """Make up scores of a policy that has moved, each a leaf of the graph."""
    moved_BL = moved_logprobs(batch)
    made = {name: -moved_BL * (1.5 + i) for i, name in enumerate(objective.probes())}
    return Scores(
        {n: t.clone().requires_grad_() for n, t in (made | {"logprobs": moved_BL}).items()}
    )


def _weights(objective: Objective, batch: TokenBatch) -> Tensor:
    if isinstance(objective, PolicyLoss):
        return objective.of_length(100).weights_BL(batch, torch.float64)
    return batch.mask_BL.double() / batch.mask_BL.sum()


def _value(
    objective: Objective, batch: TokenBatch, advantages_BL: Tensor, scores: Scores
) -> Tensor:
    """Compute the term of a whole batch, added up as the learner adds it."""
    if objective.granularity == "batch":
        return batch_loss(objective, scores, batch, advantages_BL)[0]
    loss_BL = token_loss(objective, scores, batch, advantages_BL).loss_BL
    return (torch.where(batch.mask_BL, loss_BL, 0.0) * _weights(objective, batch)).sum()


def _gradients(
    objective: Objective, batch: TokenBatch, advantages_BL: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Compute the value, and its gradient with respect to each kind of score [B, L]."""
    batch = _prepared(objective, batch)
    scores = _scores(objective, batch)
    value = _value(objective, batch, advantages_BL, scores)
    if not value.requires_grad:
        return value, []
    found = torch.autograd.grad(value, list(scores.of.values()), allow_unused=True)
    return value.detach(), [g for g in found if g is not None]


@_both("answers", ())
def answers(objective: Objective) -> None:
    """Check that value and gradients are finite, for episodes of every shape."""
    for seed in SEEDS:
        batch = _batch(seed)
        value, gradients = _gradients(objective, batch, _advantages(batch))
        assert bool(value.isfinite()), "the loss is not finite"
        assert all(bool(g.isfinite().all()) for g in gradients), "a gradient is not finite"


@_both("only where something was sampled")
def masked(objective: Objective) -> None:
    """Check that observations have no gradient."""
    for seed in SEEDS:
        batch = _batch(seed)
        for gradient_BL in _gradients(objective, batch, _advantages(batch))[1]:
            assert not bool(gradient_BL[~batch.mask_BL].any()), "an observation has a gradient"


@_both("writes nothing")
def pure(objective: Objective) -> None:
    """Check that an objective writes into nothing it is given, and gives equal answers again."""
    batch = _batch(0)
    advantages_BL = _advantages(batch)

    def ask() -> Tensor:
        return _gradients(objective, batch, advantages_BL)[0]

    first = untouched(ask, batch, advantages_BL)
    assert torch.equal(first, ask()), "asked again it answers otherwise"


@_both("packing changes nothing")
def packing(objective: Objective) -> None:
    """Check that turns in one sequence or in many have the same loss."""
    for seed in SEEDS:
        one, many = (_batch(seed, merge=merge) for merge in (True, False))
        a = _gradients(objective, one, _advantages(one))[0]
        b = _gradients(objective, many, _advantages(many))[0]
        assert equal(a, b, 1e-6), "the loss depends on how episodes were packed"


@_both("cuts change nothing")
def cuts(objective: Objective) -> None:
    """Check that a token has the same loss in a micro-batch as in the whole batch."""
    if objective.granularity == "batch":
        raise Skip("it sees whole batches")
    for seed in SEEDS:
        batch = _prepared(objective, _batch(seed))
        advantages_BL, scores = _advantages(batch), _scores(objective, batch)
        whole_BL = token_loss(objective, scores, batch, advantages_BL).loss_BL
        for rows in batch.split(12):
            part = batch.select(rows)
            width = part.tokens_BL.shape[1]
            cut = scores.map(lambda t: t[rows, :width])  # noqa: B023
            part_BL = token_loss(objective, cut, part, advantages_BL[rows, :width]).loss_BL
            pair = (whole_BL[rows, :width], part_BL)
            a, b = (torch.where(part.mask_BL, loss_BL, 0.0) for loss_BL in pair)
            assert equal(a.detach(), b.detach()), "a token's loss depends on its micro-batch"


@LOSS.rule("no advantage, no gradient", needs=("answers",))
def idle(objective: Objective) -> None:
    """Check that tokens without an advantage get no gradient of a loss that may leave them out."""
    if not isinstance(objective, PolicyLoss) or not objective.skips_zero:
        raise Skip("it learns from tokens without an advantage")
    batch = _batch(0)
    for gradient_BL in _gradients(objective, batch, torch.zeros_like(_advantages(batch)))[1]:
        assert not bool(gradient_BL.any()), "without an advantage it pushes all the same"
