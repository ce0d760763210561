"""The promises of estimators of advantages and of their modifiers."""

from __future__ import annotations

import torch
from torch import Tensor

from ...foundation.checking import Rules, Skip
from ...foundation.errors import PluginError, UserError
from ..batch import TokenBatch
from ..boundaries import advantages_of, modified
from ..credit.base import Advantages, Credit
from ..modifiers.base import Modifier
from .common import equal, untouched
from .samples import Sample, reordered, sample

SEEDS = range(6)
CREDIT: Rules[Credit] = Rules()
MODIFIER: Rules[Modifier] = Rules()


def _answer(credit: Credit, given: Sample) -> Tensor:
    try:
        return advantages_of(credit, given.table, given.batch).values
    except UserError as error:
        if isinstance(error, PluginError):
            raise
        raise Skip(str(error)) from None


def _per_turn(values_BL: Tensor, batch: TokenBatch) -> list[Tensor]:
    """Compute the mean advantage of the tokens of each turn, episode by episode."""
    tokens_ET = batch.per_turn(batch.mask_BL.double())
    mean_ET = batch.per_turn(values_BL) / tokens_ET.clamp(min=1)
    return [row[: int(turns)] for row, turns in zip(mean_ET, batch.turns_E, strict=True)]


@CREDIT.rule("answers")
def answers(credit: Credit) -> None:
    """Check that advantages are finite numbers, for episodes of every shape.

    One per turn or token.
    """
    for seed in SEEDS:
        for alone in (False, True):
            values_BL = _answer(credit, sample(seed, alone=alone))
            assert bool(values_BL.isfinite().all()), "an advantage is not finite"


@CREDIT.rule("only where something was sampled", needs=("answers",))
def masked(credit: Credit) -> None:
    """Check that observations have no advantage."""
    for seed in SEEDS:
        given = sample(seed)
        outside = _answer(credit, given)[~given.batch.mask_BL]
        assert not bool(outside.any()), "a token that nobody sampled has an advantage"


@CREDIT.rule("writes nothing", needs=("answers",))
def pure(credit: Credit) -> None:
    """Check that rewards and batch stay as they were, and equal questions get equal answers."""
    given = sample(0)
    first = untouched(lambda: _answer(credit, given), given.batch, given.table)
    assert equal(first, _answer(credit, given), 0.0), "asked again it answers otherwise"


@CREDIT.rule("no variance, no advantage", needs=("answers",))
def flat(credit: Credit) -> None:
    """Check that equally paid episodes have exactly 0 where episodes are compared."""
    if credit.peers() != "group":
        raise Skip("it compares no episodes of a group")
    for seed in SEEDS:
        values_BL = _answer(credit, sample(seed, flat=True))
        assert not bool(values_BL.any()), "a group without variance is pushed"


@CREDIT.rule("packing changes nothing", needs=("answers",))
def packing(credit: Credit) -> None:
    """Check that turns in one sequence or in many have the same advantages."""
    for seed in SEEDS:
        one, many = sample(seed), sample(seed, merge=False)
        a = _per_turn(_answer(credit, one), one.batch)
        b = _per_turn(_answer(credit, many), many.batch)
        assert all(map(equal, a, b)), "a turn's advantage depends on how its episode was packed"


@CREDIT.rule("order changes nothing", needs=("answers",))
def order(credit: Credit) -> None:
    """Check that the order of the groups in a batch means nothing."""
    for seed in SEEDS:
        given = sample(seed)
        turned = reordered(given, [2, 0, 3, 1])
        a = _by_group(_answer(credit, given), given)
        b = _by_group(_answer(credit, turned), turned)
        same = all(equal(x, y) for g in a for x, y in zip(a[g], b[g], strict=True))
        assert same, "an advantage depends on where its group stands in the batch"


def _by_group(values_BL: Tensor, given: Sample) -> dict[str, list[Tensor]]:
    rows = iter(_per_turn(values_BL, given.batch))
    return {group.task.id: [next(rows) for _ in group] for group in given.groups}


def _some(given: Sample) -> Advantages:
    """Make up advantages [B, L] of both signs."""
    values_BL = (given.batch.tokens_BL.double() % 7 - 3) * given.batch.mask_BL
    return Advantages(values_BL, "token")


@MODIFIER.rule("answers")
def modifies(modifier: Modifier) -> None:
    """Check that modified advantages are finite, for episodes of every shape.

    One number per token.
    """
    for seed in SEEDS:
        given = sample(seed)
        values_BL = modified(modifier, _some(given), given.batch).values
        assert bool(values_BL.isfinite().all()), "an advantage is not finite"


@MODIFIER.rule("only where something was sampled", needs=("answers",))
def modifies_masked(modifier: Modifier) -> None:
    """Check that observations keep no advantage."""
    for seed in SEEDS:
        given = sample(seed)
        outside = modified(modifier, _some(given), given.batch).values[~given.batch.mask_BL]
        assert not bool(outside.any()), "a token that nobody sampled has an advantage"


@MODIFIER.rule("writes nothing", needs=("answers",))
def modifies_purely(modifier: Modifier) -> None:
    """Check that a modifier writes into nothing it is given, and gives equal answers again."""
    given, some = sample(0), _some(sample(0))
    first = untouched(lambda: modified(modifier, some, given.batch).values, given.batch, some)
    again = modified(modifier, some, given.batch).values
    assert torch.equal(first, again), "asked again it answers otherwise"
