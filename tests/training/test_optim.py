"""Schedules in closed form, clipping per module, and steps that are skipped, not poisoned."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from turnrl.training.learner.optim import OptimConfig, apply_step, make_optimizer


def test_schedules() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=4)
    assert [config.lr_at(step, 10) for step in range(6)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    )
    linear = OptimConfig(lr=2.0, warmup_steps=2, schedule="linear", final=0.1)
    cosine = linear.model_copy(update={"schedule": "cosine"})
    for step in range(2, 13):
        done = (step - 2) / 10
        assert linear.lr_at(step, 12) == pytest.approx(2 * (1 - 0.9 * done))
        assert cosine.lr_at(step, 12) == pytest.approx(
            2 * (0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2)
        )
    assert linear.lr_at(12, 12) == pytest.approx(0.2)
    assert linear.lr_at(1, 12) == cosine.lr_at(1, 12) == pytest.approx(4 / 3)
    assert OptimConfig(lr=3.0).lr_at(10**6, 1) == 3.0


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def test_each_module_is_clipped_by_itself() -> None:
    policy, critic = parameter(0.0, 0.0), parameter(0.0)
    optimizer = make_optimizer([([policy], 1.0), ([critic], 10.0)], OptimConfig(lr=1.0))
    policy.grad, critic.grad = torch.tensor([0.3, 0.4]), torch.tensor([500.0])
    seen: list[torch.Tensor] = []

    def look(*_: object) -> None:
        assert policy.grad is not None
        assert critic.grad is not None
        seen.extend([policy.grad.clone(), critic.grad.clone()])

    optimizer.register_step_pre_hook(look)
    assert apply_step(optimizer, 0.01, 1.0) == pytest.approx([0.5, 500.0])
    torch.testing.assert_close(seen[0], torch.tensor([0.3, 0.4]))
    torch.testing.assert_close(seen[1], torch.tensor([1.0]), rtol=1e-4, atol=0)
    # The first step of Adam has the length of the learning rate, here that of each group.
    torch.testing.assert_close(policy.detach(), torch.tensor([-0.01, -0.01]), rtol=1e-3, atol=0)
    torch.testing.assert_close(critic.detach(), torch.tensor([-0.1]), rtol=1e-3, atol=0)
    assert policy.grad is None


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_skips_the_step(bad: float) -> None:
    policy, critic = parameter(1.0, 2.0), parameter(3.0)
    optimizer = make_optimizer([([policy], 1.0), ([critic], 1.0)], OptimConfig(lr=1.0))
    policy.grad, critic.grad = torch.tensor([1.0, bad]), torch.tensor([1.0])
    norms = apply_step(optimizer, 0.1, 1.0)
    assert not math.isfinite(norms[0])
    assert policy.tolist() == [1.0, 2.0]
    assert critic.tolist() == [3.0]
    assert not optimizer.state
    policy.grad, critic.grad = torch.ones(2), torch.ones(1)
    apply_step(optimizer, 0.1, 1.0)
    assert torch.isfinite(policy).all()
    assert policy.tolist() != [1.0, 2.0]


def test_only_matrices_decay() -> None:
    layer = nn.Linear(2, 2)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    optimizer = make_optimizer([(layer.parameters(), 1.0)], OptimConfig(lr=1.0, weight_decay=0.1))
    for p in layer.parameters():
        p.grad = torch.zeros_like(p)
    assert apply_step(optimizer, 0.5, 1.0) == [0.0]
    torch.testing.assert_close(layer.weight.detach(), weight * (1 - 0.5 * 0.1))
    torch.testing.assert_close(layer.bias.detach(), bias)


def test_frozen_parameters_are_left_out() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    optimizer = make_optimizer([(layer.parameters(), 1.0)], OptimConfig())
    assert [p for group in optimizer.param_groups for p in group["params"]] == [layer.bias]
