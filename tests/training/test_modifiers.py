"""Modifiers: their own examples, and that nothing appears where nothing was sampled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from turnrl.training.batch import TokenBatch
from turnrl.training.modifiers.base import MODIFIERS

from .builders import batch_of
from .test_credit import close


def group(
    lengths: list[int], success: list[bool], terminated: list[bool] | None = None
) -> TokenBatch:
    """One turn per episode, of so many tokens."""
    batch = batch_of([[0] * length for length in lengths], terminated=terminated)
    return replace(batch, success_E=torch.tensor(success))


def modified(batch: TokenBatch, advantages: list[float], **config: Any) -> Tensor:
    advantages_BL = batch.spread(torch.tensor(advantages, dtype=torch.float64)[:, None])
    out = MODIFIERS.build(config)(advantages_BL, batch)
    assert not out[~batch.mask_BL].any()
    return out[:, 0]


@pytest.mark.parametrize(
    ("right", "terminated", "factor"),
    [(100, True, 1.0), (60, True, 0.1), (60, False, 1.0)],
)
def test_adora_by_hand(right: int, terminated: bool, factor: float) -> None:
    batch = group([right, 50, 60, 80], [True, False, False, False], [True, True, True, terminated])
    out = modified(batch, [1.5, -0.5, -0.5, -0.5], name="adora")
    close(out, torch.tensor([1.5, -0.5, -0.5, -0.5]).double() * factor)


def test_adora_edges() -> None:
    close(modified(group([3, 5], [True, True]), [1, -1], name="adora"), [1, -1])
    close(modified(group([3, 5], [False, False]), [1, -1], name="adora"), [0.1, -0.1])
    batch = group([9, 1], [True, False])
    close(modified(batch, [1, -1], name="adora"), [1, -1])
    close(modified(batch, [1, -1], name="adora", length="turns", factor=0.5), [0.5, -0.5])


def test_overlong_failures_by_hand() -> None:
    batch = group([100, 600, 10100, 50], [True, False, False, False])
    out = modified(batch, [3.0, -1.0, -1.0, -1.0], name="overlong_failures")
    close(out, [3.0, -1.004987, -1.095162, -1.0], 1e-6)
    close(modified(group([5, 600], [False, False]), [1, -1], name="overlong_failures"), [1, -1])


def test_groups_are_judged_by_themselves() -> None:
    batch = replace(
        group([9, 1, 1, 9], [True, False, True, False]), group_E=torch.tensor([0, 0, 1, 1])
    )
    close(modified(batch, [1, -1, 1, -1], name="adora"), [1, -1, 0.1, -0.1])
