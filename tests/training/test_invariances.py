"""Changes of a batch that change nothing: each estimator holds exactly its invariances."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from turnrl.training.batch import TokenBatch
from turnrl.training.reward_table import RewardTable

from .builders import NAN, batch_of, table
from .test_credit import apply, close, ids

INVARIANT, EQUIVARIANT, NEITHER = "invariant", "equivariant", "neither"

# (configuration, a constant added to every episode of a group, all rewards of the batch times a
# positive number)
TABLE: list[tuple[dict[str, Any], bool, str]] = [
    ({"name": "reinforce"}, False, EQUIVARIANT),
    ({"name": "rloo"}, True, EQUIVARIANT),
    ({"name": "grpo", "eps": 0.0}, True, INVARIANT),
    ({"name": "grpo", "eps": 0.1}, True, NEITHER),
    ({"name": "dr_grpo"}, True, EQUIVARIANT),
    ({"name": "gdpo", "eps": 0.0}, True, INVARIANT),
    ({"name": "lite_ppo", "eps": 0.0}, False, INVARIANT),
    ({"name": "bnpo", "low": -99.0, "high": 99.0}, False, NEITHER),
    ({"name": "stepwise", "eps": 0.0}, True, INVARIANT),
    ({"name": "stepwise", "scale": False}, True, EQUIVARIANT),
    ({"name": "gigpo"}, False, EQUIVARIANT),
    ({"name": "gigpo", "gamma": 1.0}, True, EQUIVARIANT),
    ({"name": "gigpo", "gamma": 1.0, "norm": "mean_std", "eps": 0.0}, True, INVARIANT),
    ({"name": "igpo", "process": "p", "eps": 0.0}, True, INVARIANT),
    ({"name": "turn_return"}, True, EQUIVARIANT),
    ({"name": "turn_return", "gamma": 0.9}, False, EQUIVARIANT),
    ({"name": "turn_return", "baseline": "episode"}, True, EQUIVARIANT),
    ({"name": "turn_return", "baseline": "none"}, False, EQUIVARIANT),
    ({"name": "turn_return", "scale": "group", "eps": 0.0}, True, INVARIANT),
    ({"name": "turn_return", "scale": "batch", "eps": 0.0}, True, INVARIANT),
    ({"name": "reinforce_pp", "whiten": False}, False, EQUIVARIANT),
    ({"name": "reinforce_pp", "baseline": "group"}, True, INVARIANT),
    ({"name": "gae", "whiten": False}, False, NEITHER),
]
CONFIGS = [config for config, _, _ in TABLE]
PROCESS = [[0.2, -0.1, 0.0], [0.4, 0.0], [0.0], [0.3, 0.3, 0.0], [0.1, 0.0], [0.7, 0.0]]
OUTCOME = [[0.0, 0.5, 1.0], [0.0, 0.0], [2.0], [0.0, 0.0, 1.0], [0.5, 0.0], [1.0, 3.0]]
GROUPS = [0, 0, 0, 1, 1, 1]


def rewarded(
    outcome: list[list[float]], factor: float = 1.0, *, observations: int = 1, padding: int = 0
) -> tuple[TokenBatch, RewardTable]:
    """Two tokens per turn, `observations` between turns, `padding` at the end."""
    rows = []
    for turns in outcome:
        row: list[int] = []
        for t in range(len(turns)):
            row += [-1] * observations + [t, t]
        rows.append(row + [-1] * padding)
    batch = batch_of(rows, groups=GROUPS)
    rewards = {"p": PROCESS, "o": outcome}
    scaled = {
        name: [[factor * value for value in row] for row in values]
        for name, values in rewards.items()
    }
    return batch, table(scaled, {"p": 0.5})


def shifted(by: dict[int, float]) -> list[list[float]]:
    """Every episode's outcome, on its last turn, is larger by the number of its group."""
    return [[*row[:-1], row[-1] + by[group]] for row, group in zip(OUTCOME, GROUPS, strict=True)]


def same(left: Tensor, right: Tensor) -> bool:
    return bool(torch.allclose(left, right, atol=1e-7, rtol=0))


@pytest.mark.parametrize(("config", "holds"), [(c, s) for c, s, _ in TABLE], ids=ids(CONFIGS))
def test_a_constant_for_a_whole_group(config: dict[str, Any], holds: bool) -> None:
    before = apply(config, *rewarded(OUTCOME))
    assert before.abs().max() > 1e-5
    assert same(apply(config, *rewarded(shifted({0: 3.0, 1: -2.0}))), before) == holds


@pytest.mark.parametrize(("config", "kind"), [(c, k) for c, _, k in TABLE], ids=ids(CONFIGS))
def test_all_rewards_times_a_number(config: dict[str, Any], kind: str) -> None:
    before, after = apply(config, *rewarded(OUTCOME)), apply(config, *rewarded(OUTCOME, 4.0))
    assert same(after, before) == (kind == INVARIANT)
    assert same(after, 4 * before) == (kind == EQUIVARIANT)


@pytest.mark.parametrize("config", CONFIGS, ids=ids(CONFIGS))
def test_padding_and_observations(config: dict[str, Any]) -> None:
    """What the policy did not sample has no advantage and no say, whatever number stands there."""
    results = []
    for observations, padding in ((0, 0), (1, 0), (3, 5)):
        batch, paid = rewarded(OUTCOME, observations=observations, padding=padding)
        values_BL = torch.full(batch.turn_BL.shape, NAN, dtype=torch.float64)
        count = int(batch.mask_BL.sum())
        values_BL[batch.mask_BL] = torch.linspace(-1, 1, count, dtype=torch.float64)
        batch = replace(batch, values_BL=values_BL, bootstrap_E=torch.zeros(batch.episodes))
        results.append(apply(config, batch, paid)[batch.mask_BL])
    for other in results[1:]:
        close(other, results[0], 1e-12)
