"""Credit where the policy decides how long it plays: is the mean over all possible groups the exact gradient?"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from turnrl.training.batch import TokenBatch
from turnrl.training.credit.base import CREDITS, Credit

from .builders import episodic

GO, STOP = 1, 0
PAY = (0.4, 0.7, 0.2)
"""Every turn pays, whatever was chosen; stopping at the second one pays more."""


def trajectories(p: float) -> list[tuple[float, list[float], list[float]]]:
    """(probability, rewards, d log pi / d theta per turn) of a policy that goes on with probability sigmoid(theta)."""
    out = []
    for actions in ((STOP,), (GO, STOP), (GO, GO, STOP), (GO, GO, GO)):
        chance = math.prod(p if a == GO else 1 - p for a in actions)
        rewards = [PAY[t] + 0.9 * (a == STOP and t == 1) for t, a in enumerate(actions)]
        out.append((chance, rewards, [(1 - p) if a == GO else -p for a in actions]))
    return out


def build(config: dict[str, Any]) -> Credit:
    return CREDITS.build(config)


def mean_gradient(credit: Any, p: float, size: int = 3) -> tuple[float, float]:
    """Exact mean and variance, over all groups there can be, of the group's gradient estimate."""
    combos = list(itertools.product(trajectories(p), repeat=size))
    rewards = [r for combo in combos for _, r, _ in combo]
    scores = [s for combo in combos for _, _, s in combo]
    batch, rewards_KET = episodic(rewards, [g for g in range(len(combos)) for _ in range(size)])
    score_ET = torch.zeros(batch.episodes, batch.max_turns).double()
    for e, row in enumerate(scores):
        score_ET[e, : len(row)] = torch.tensor(row, dtype=torch.float64)
    gradient_C = (credit(rewards_KET, batch) * score_ET).sum(1).view(-1, size).mean(1)
    chance_C = torch.tensor([math.prod(chance for chance, _, _ in combo) for combo in combos], dtype=torch.float64)
    mean = float((chance_C * gradient_C).sum())
    return mean, float((chance_C * (gradient_C - mean) ** 2).sum())


def exact_gradient(p: float) -> float:
    return sum(chance * sum(rewards) * sum(scores) for chance, rewards, scores in trajectories(p))


@pytest.mark.parametrize("baseline", ["turn", "episode", "none"])
@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_turn_return_is_unbiased_where_the_policy_decides_the_length(baseline: str, p: float) -> None:
    mean, _ = mean_gradient(build({"name": "turn_return", "baseline": baseline}), p)
    assert mean == pytest.approx(exact_gradient(p), abs=1e-12)


def test_rloo_is_unbiased_too() -> None:
    assert mean_gradient(build({"name": "rloo"}), 0.5)[0] == pytest.approx(exact_gradient(0.5), abs=1e-12)


def test_centring_rewards_per_turn_index_is_biased() -> None:
    """What the estimator must not do: subtract the mean reward of each turn index first, then add up."""

    def centred(rewards_KET: Tensor, batch: TokenBatch) -> Tensor:
        reward_ET, alive_ET = batch.total_ET(rewards_KET), batch.mask_ET.double()
        group_E = batch.group_E
        sums_GT = torch.zeros(int(group_E.max()) + 1, batch.max_turns).double().index_add_(0, group_E, reward_ET)
        alive_GT = torch.zeros_like(sums_GT).index_add_(0, group_E, alive_ET)
        rest_ET = (reward_ET - (sums_GT / alive_GT.clamp(min=1))[group_E]) * alive_ET
        return rest_ET.flip(1).cumsum(1).flip(1)

    for p in (0.2, 0.5, 0.9):
        assert abs(mean_gradient(centred, p)[0] - exact_gradient(p)) > 0.01


def test_the_baseline_of_the_turn_lowers_the_variance() -> None:
    variance = {
        b: mean_gradient(build({"name": "turn_return", "baseline": b}), 0.5)[1] for b in ("turn", "episode", "none")
    }
    assert variance["turn"] < variance["episode"] < variance["none"]
