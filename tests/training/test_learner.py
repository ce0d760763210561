"""Learner: it works alone, undoes what it did, and makes its tensors where the batch is."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from turnrl.agents.episode import StopReason
from turnrl.foundation.plugins import Need
from turnrl.training.batch import TokenBatch
from turnrl.training.boundaries import advantages_of, modified
from turnrl.training.credit.base import CREDITS
from turnrl.training.learner.config import LearnerConfig
from turnrl.training.learner.local import Learner
from turnrl.training.losses.base import LOSSES
from turnrl.training.modifiers.base import MODIFIERS
from turnrl.training.reward_table import RewardTable

from .test_update import advantages, batch_of, model, played, tokens


def config(**fields: Any) -> LearnerConfig:
    return LearnerConfig.model_validate({"optim": {"lr": 0.01}, "steps": 10, **fields})


def weights(learner: Learner) -> Tensor:
    return torch.cat([weight.flatten() for weight in learner.weights().values()]).clone()


def test_a_learner_needs_no_run() -> None:
    learner, batch = Learner(LearnerConfig(), copy.deepcopy(model())), batch_of("full_history")
    before = weights(learner)
    metrics = learner.update([learner.work(batch, tokens(advantages(batch)))])
    assert metrics["grad_norm"] > 0
    assert not torch.equal(weights(learner), before)
    assert learner.critic is None
    assert learner.reference is None


def test_a_rollback_undoes_updates() -> None:
    batch = batch_of("sliding_window")
    learner = Learner(config(average=0.5), copy.deepcopy(model()), needs={Need.VALUES})
    batch = learner.measured(batch)
    targets_BL = torch.where(batch.mask_BL, 1.0, float("nan"))

    def learn() -> None:
        learner.update([learner.work(batch, tokens(advantages(batch), targets_BL))])

    learn()
    kept, first = learner.snapshot(), weights(learner)
    learn()
    with learner.averaged():
        second = weights(learner)
    learner.rollback(kept)
    assert torch.equal(weights(learner), first)
    learn()
    with learner.averaged():
        assert torch.equal(weights(learner), second), "the same update again, with its moments"
    learner.rollback(kept)
    assert torch.equal(weights(learner), first), "a snapshot can be used twice"


# Rule 10: what is made without a device lands on the default one. On 'meta' there are no numbers:
# it cannot be computed with, and where it is an index, what comes out is another number.


@contextmanager
def elsewhere() -> Iterator[None]:
    """The default device is one that nothing of a step is on."""
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


STEPS: list[dict[str, Any]] = [
    {"critic": {"backbone": "separate"}, "minibatches": 2, "updates": 2},
    {"critic": {"backbone": "shared"}, "rows_multiple_of": 2},
    {"loss": {"name": "ppo_clip", "importance": {"mode": "sequence_mask"}}},
    {"bf16": True},
    *({"loss": {"name": name, "aggregation": "seq_mean_token_sum"}} for name in LOSSES.names()),
]


@pytest.mark.filterwarnings("ignore:bf16")
@pytest.mark.parametrize("fields", STEPS, ids=str)
def test_a_whole_step_is_made_on_the_device_of_its_batch(fields: dict[str, Any]) -> None:
    made = config(
        token_budget=150,
        average=0.5,
        regularizers=[{"name": "kl"}, {"name": "entropy"}],
        **fields,
    )
    groups, cut = played("sliding_window"), frozenset({StopReason.TURN_LIMIT})
    policies = [copy.deepcopy(model()) for _ in range(2)]

    def step(policy: Any) -> tuple[Tensor, dict[str, float]]:
        learner = Learner(made, policy, needs={Need.VALUES}, longest=16)
        assert learner.critic is not None
        nn.init.constant_(learner.critic.head.weight, 0.1)
        batch = learner.measured(TokenBatch.pack(groups, closing=cut), cut)
        credit = CREDITS.build({"name": "gae", "limit": "bootstrap"})
        work = learner.work(batch, advantages_of(credit, paid(batch), batch))
        metrics = learner.update([work])
        return weights(learner), metrics

    here = step(policies[0])
    with elsewhere():
        there = step(policies[1])
    assert there[0].device.type == "cpu"
    assert torch.equal(here[0], there[0])
    assert here[1] == there[1]
    assert here[1]["grad_norm"] > 0
    assert here[1]["grad_norm/critic"] > 0


def paid(batch: TokenBatch) -> RewardTable:
    """Two rewards of the batch's episodes."""
    values_ET = batch.mask_ET.double() * batch.turn_T
    none_K, none_KET = values_ET.new_zeros(0), values_ET.new_zeros(0, *values_ET.shape)
    table = RewardTable((), none_K, none_KET, batch.turns_E)
    first = table.with_reward("meta_reasoning", values_ET, 1.0)
    return first.with_reward("information_gain", 0.5 - values_ET / 7, 0.5)


@pytest.mark.parametrize("name", CREDITS.names())
def test_credit_is_made_on_the_device_of_its_batch(name: str) -> None:
    groups = played("full_history")

    def answer() -> Tensor:
        batch = TokenBatch.pack(groups)
        batch.values_BL = torch.zeros_like(batch.logprobs_of("engine"))
        fields = {"low": -20.0, "high": 20.0} if name == "bnpo" else {}
        found = advantages_of(CREDITS.build({"name": name, **fields}), paid(batch), batch)
        for modifier in MODIFIERS.names():
            found = modified(MODIFIERS.build({"name": modifier}), found, batch)
        return found.values

    with elsewhere():
        there = answer()
    assert there.device.type == "cpu"
    assert torch.equal(there, answer())
