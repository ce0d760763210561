"""Stalling: waiting for the turn limit is never worth more than the episode was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from turnrl.agents.episode import StopReason
from turnrl.training.credit.base import CREDITS, Credit

from .test_estimators import same, tabular

TURNS, DOORS = 3, 3
"""Of an episode, and among which one wins that nobody can know."""


def problem(logits: tuple[tuple[float, ...], ...] = ((0.3, -0.2, 0.1, 0.0),) * TURNS) -> Any:
    """Wait, or try a door: one of `DOORS` wins. Waiting all along meets the limit."""

    def play(task: int, waits: int, door: int) -> Any:
        waited = tuple(tabular.Move(str(t), 0) for t in range(waits))
        return (*waited, tabular.Move(str(waits), 1 + door, (float(door == task),)))

    stall = tuple(tabular.Move(str(t), 0) for t in range(TURNS))
    tasks = tuple(
        (*(play(task, waits, door) for waits in range(TURNS) for door in range(DOORS)), stall)
        for task in range(DOORS)
    )
    return tabular.Problem("stall", "", {str(t): row for t, row in enumerate(logits)}, tasks)


def stalled_N(world: Any) -> Tensor:
    """Which episodes never tried."""
    return torch.tensor([all(move.action == 0 for move in play) for play in world.plays])


def everything(world: Any, values_T: Tensor, stop: StopReason) -> Any:
    """All episodes there are as one batch.

    `values_T`: the critic's value before each turn, and of the state that the limit leaves.
    """
    every = torch.arange(len(world.plays))
    case = world.batch(every, every, values_T[:TURNS].expand(len(every), TURNS))
    stops = tuple(stop if stalled else StopReason.LOST for stalled in stalled_N(world).tolist())
    return replace(
        case, batch=replace(case.batch, stops=stops, bootstrap_E=values_T[TURNS].expand(len(every)))
    )


def learnt(credit: Credit, world: Any, values_T: Tensor, stop: StopReason) -> tuple[Tensor, Tensor]:
    """The mean of the policy gradient [P] and of the critic's targets [T]."""
    case, chance_N = everything(world, values_T, stop), world.chance_N / DOORS
    gradient_P = (chance_N[:, None] * case.gradient_EP(credit)).sum(0)
    target_NT = credit(case.rewards, case.batch).critic_targets_BL
    assert target_NT is not None
    there_NT = chance_N[:, None] * case.batch.mask_ET
    return gradient_P, (there_NT * target_NT.nan_to_num()).sum(0) / there_NT.sum(0)


def gae(**fields: Any) -> Credit:
    return CREDITS.build({"name": "gae", "whiten": False, **fields})


BELIEFS = [
    torch.tensor(values).double()
    for values in ([0.0, 0, 0, 0], [0.2, 0.9, -0.4, 5.0], [1.0, 1, 1, -3.0])
]


@pytest.mark.parametrize("over", ["token", "turn"])
@pytest.mark.parametrize("values_T", BELIEFS, ids=str)
@pytest.mark.parametrize("stop", [StopReason.TURN_LIMIT, StopReason.CONTEXT_LIMIT])
def test_a_limit_of_the_task_ends_it_whatever_the_critic_believes(
    stop: StopReason, values_T: Tensor, over: str
) -> None:
    """The mean is the gradient of the measured success, and to have waited is to have lost."""
    world = problem()
    found_P, _ = learnt(gae(lam=1.0, over=over), world, values_T, stop)
    assert same(found_P, world.gradient())
    assert found_P.view(TURNS, -1)[:, 0].max() < 0
    case = everything(world, values_T, stop)
    last_N, won_N = case.batch.turns_E == TURNS, world.rewards_KNT[0].sum(1) == 1
    last_turn_N = gae(lam=0.95, over=over)(case.rewards, case.batch).values[:, TURNS - 1]
    assert len(last_turn_N[last_N & ~won_N].unique()) == 1
    assert last_turn_N[last_N & ~won_N].max() < last_turn_N[last_N & won_N].min()


@pytest.mark.parametrize("values_T", BELIEFS, ids=str)
def test_a_value_beyond_the_limit_pays_for_stalling(values_T: Tensor) -> None:
    """With `limit` bootstrap the mean gains that value times the gradient of stalling."""
    world = problem()
    stall_P = torch.einsum("n,ntp->p", world.chance_N * stalled_N(world) / DOORS, world.score_NTP)
    for stop, limit in ((StopReason.TURN_LIMIT, "bootstrap"), (StopReason.CURRICULUM_LIMIT, "end")):
        found_P, _ = learnt(gae(lam=1.0, limit=limit), world, values_T, stop)
        assert same(found_P, world.gradient() + values_T[TURNS] * stall_P)


@pytest.mark.parametrize(("limit", "stalls"), [("end", False), ("bootstrap", True)])
def test_a_policy_learns_to_stall_only_if_the_limit_has_a_future(limit: str, stalls: bool) -> None:
    """Exact updates: nothing corrects what a critic believes of a state without a turn."""
    logits = torch.zeros(TURNS, DOORS + 1, dtype=torch.float64)
    values_T = torch.full((TURNS + 1,), 0.5, dtype=torch.float64)
    for _ in range(300):
        world = problem(tuple(map(tuple, logits.tolist())))
        gradient_P, target_T = learnt(gae(limit=limit), world, values_T, StopReason.TURN_LIMIT)
        logits += 2.0 * gradient_P.view_as(logits)
        values_T[:TURNS] += 0.2 * (target_T - values_T[:TURNS])
    world = problem(tuple(map(tuple, logits.tolist())))
    stalled = float((world.chance_N * stalled_N(world)).sum()) / DOORS
    won = float((world.chance_N * world.rewards_KNT[0].sum(1)).sum()) / DOORS
    assert (stalled > 0.9) if stalls else (stalled < 0.02)
    assert won == pytest.approx((1 - stalled) / DOORS)
