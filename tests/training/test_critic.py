"""Critic: values stand before their token, bootstrap values at the end; gradients go right."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from turnrl.agents.episode import Group, StopReason
from turnrl.agents.models.config import LoraConfig, ModelConfig
from turnrl.agents.models.forward import hidden_states
from turnrl.agents.models.load import load
from turnrl.training.batch import TokenBatch
from turnrl.training.credit.base import CREDITS
from turnrl.training.learner.critic import Critic, CriticConfig
from turnrl.training.stages.rl import Rl

from .builders import table
from .test_update import Step, model, played


def critic_of(policy: Any, backbone: str = "separate", noise: float = 1.0, **config: Any) -> Critic:
    """A critic whose head says something."""
    made = Critic(policy, CriticConfig.model_validate({"backbone": backbone, **config}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        made.head.weight.copy_(noise * torch.randn(made.head.weight.shape, generator=generator))
        made.head.bias.fill_(0.1 * noise)
    return made


CUT = frozenset({StopReason.CURRICULUM_LIMIT})


def groups_of(context: str) -> list[Group]:
    """Groups as played, but a third of the episodes ended by itself, a third by a curriculum."""
    groups = copy.deepcopy(played(context))
    for group in groups:
        group.episodes[1].stop = StopReason.LOST
        group.episodes[2].stop = StopReason.CURRICULUM_LIMIT
    return groups


def packed(context: str, merge: bool = True, closing: frozenset[StopReason] = CUT) -> TokenBatch:
    return TokenBatch.pack(groups_of(context), merge=merge, closing=closing)


def all_values(critic: Critic, policy: Any, ids: list[int]) -> Tensor:
    """The head on every hidden state of one sequence."""
    with torch.no_grad():
        hidden_BLD = hidden_states(critic.backbone or policy, torch.tensor([ids]))
        value_BL1: Tensor = critic.head(hidden_BLD)
        return value_BL1[0, :, 0]


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("context", ["full_history", "sliding_window"])
def test_values_and_bootstrap(context: str, merge: bool) -> None:
    batch, policy = packed(context, merge), model()
    critic = critic_of(policy)
    open_E = batch.stopped_E(CUT)
    values_BL, bootstrap_E = critic.evaluate(
        policy, batch, list(batch.split(200)), open_E, bf16=False
    )
    one_BL, one_E = critic.evaluate(
        policy, batch, [torch.arange(len(batch.lengths_B))], open_E, bf16=False
    )
    assert bootstrap_E is not None
    assert one_E is not None
    torch.testing.assert_close(values_BL[batch.mask_BL], one_BL[batch.mask_BL], rtol=0, atol=1e-5)
    torch.testing.assert_close(bootstrap_E, one_E, rtol=0, atol=1e-5)
    episodes = [e for group in groups_of(context) for e in group]
    assert {e.stop for e in episodes} == {
        StopReason.LOST,
        StopReason.CURRICULUM_LIMIT,
        StopReason.TURN_LIMIT,
    }
    for e, episode in enumerate(episodes):
        for t, turn in enumerate(episode.turns):
            prompt = episode.prompt(t)
            expected_l = all_values(critic, policy, prompt + turn.response_ids)[
                len(prompt) - 1 : -1
            ]
            here_BL = (batch.episode_B[:, None] == e) & (batch.turn_BL == t)
            torch.testing.assert_close(values_BL[here_BL], expected_l, rtol=0, atol=1e-5)
        if episode.stop not in CUT:
            assert float(bootstrap_E[e]) == 0
            continue
        before = episode.prompt(len(episode.turns) - 1) + episode.turns[-1].response_ids
        closing = [*(before if episode.closing_extends else []), *episode.closing_ids]
        assert float(bootstrap_E[e]) == pytest.approx(
            float(all_values(critic, policy, closing)[-1]), abs=1e-5
        )


def test_a_new_critic_says_zero() -> None:
    batch = packed("full_history")
    critic = Critic(model(), CriticConfig())
    values_BL, bootstrap_E = critic.evaluate(
        model(), batch, list(batch.split(200)), batch.stopped_E(CUT), bf16=False
    )
    assert not values_BL.any()
    assert bootstrap_E is not None
    assert not bootstrap_E.any()


@pytest.mark.parametrize("merge", [True, False])
def test_an_episode_that_is_over_costs_no_closing_state(merge: bool) -> None:
    """What would have come next is in the batch only where a critic is asked about it."""
    over, cut = packed("full_history", merge, frozenset()), packed("full_history", merge)
    spent = [
        episode.closing_ids
        for group in groups_of("full_history")
        for episode in group
        if episode.stop in CUT
    ]
    assert spent
    assert all(spent)
    assert int(cut.lengths_B.sum()) > int(over.lengths_B.sum())
    assert len(cut.lengths_B) == len(over.lengths_B) + (0 if merge else len(spent))
    critic, open_E = Critic(model(), CriticConfig()), over.stopped_E(frozenset())
    assert critic.evaluate(model(), over, list(over.split(200)), open_E, bf16=False)[1] is None


def learn(
    backbone: str | None, *, warmup: int = 0, budget: int = 16384, coefficient: float = 0.5
) -> Step:
    """One update with returns for a critic (or none)."""
    batch = packed("sliding_window")
    settings: dict[str, Any] = {"backbone": backbone or "separate", "coefficient": coefficient}
    critic = critic_of(copy.deepcopy(model()), **settings)
    values_BL, bootstrap_E = critic.evaluate(
        model(), batch, list(batch.split(200)), batch.stopped_E(CUT), bf16=False
    )
    batch = replace(batch, values_BL=values_BL, bootstrap_E=bootstrap_E)
    paid = table({"r": [[1.0] * int(n) for n in batch.turns_E]})
    targets_BL = CREDITS.build({"name": "gae"})(paid, batch).critic_targets_BL

    def build(policy: Any, stage: Rl) -> Critic:
        return critic_of(policy, **settings, warmup_steps=warmup)

    return Step(
        batch,
        build if backbone else None,
        targets_BL=targets_BL,
        critic={**settings, "warmup_steps": warmup},
        token_budget=budget,
    )


def test_the_critic_of_an_adapted_policy_is_as_small_as_what_is_trained() -> None:
    """It learns adapters and a head of its own; the policy's frozen weights stay as they are."""
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=320, lora=LoraConfig(rank=4))
    policy = load(config, corpus=lambda: ["go north", "take the lamp"]).model

    def trained(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters() if p.requires_grad)

    critic = critic_of(policy)
    assert 0 < trained(policy) < 0.2 * sum(p.numel() for p in policy.parameters())
    assert trained(critic) == trained(policy) + 32 + 1
    own = {id(p) for p in policy.parameters()}
    assert all((id(p) in own) == (not p.requires_grad) for p in critic.parameters())
    ids = torch.arange(3, 9)[None]
    before, untouched = (
        policy(ids).logits.detach().clone(),
        [p.detach().clone() for p in policy.parameters()],
    )
    critic.values(critic.hidden(policy, ids)).sum().backward()
    assert all(p.grad is None for p in policy.parameters())
    torch.optim.SGD((p for p in critic.parameters() if p.requires_grad), lr=1.0).step()
    assert all(torch.equal(a, b) for a, b in zip(untouched, policy.parameters(), strict=True))
    assert torch.equal(policy(ids).logits, before)
    assert not torch.equal(critic.hidden(policy, ids), critic_of(policy).hidden(policy, ids))


def weights(module: Any) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_a_separate_critic_never_touches_the_policy() -> None:
    without, beside, loud = learn(None), learn("separate"), learn("separate", coefficient=1e4)
    assert equal(weights(without.model), weights(beside.model))
    assert equal(weights(without.model), weights(loud.model))
    assert beside.critic is not None
    assert beside.critic.backbone is not None
    assert not equal(
        weights(beside.critic.backbone), weights(learn("separate", coefficient=0.1).model)
    )
    assert beside.metrics["loss/value"] > 0
    assert beside.metrics["grad_norm"] == pytest.approx(without.metrics["grad_norm"])


def test_a_shared_critic_teaches_the_policys_backbone() -> None:
    without, shared = learn(None), learn("shared")
    assert not equal(weights(without.model), weights(shared.model))
    assert shared.critic is not None
    assert shared.critic.backbone is None
    assert len(list(shared.critic.parameters())) == 2


@pytest.mark.parametrize("backbone", ["separate", "shared"])
def test_warm_up_trains_the_critic_only(backbone: str) -> None:
    step = learn(backbone, warmup=1)
    assert equal(weights(step.model), weights(model()))
    assert step.critic is not None
    assert not torch.equal(step.critic.head.weight, critic_of(model()).head.weight)
    assert not equal(weights(learn(backbone).model), weights(model()))


@pytest.mark.parametrize("backbone", ["separate", "shared"])
def test_micro_batches_do_not_change_what_is_learnt(backbone: str) -> None:
    whole, cut = learn(backbone), learn(backbone, budget=1)
    assert cut.metrics["loss/value"] == pytest.approx(whole.metrics["loss/value"], rel=1e-4)
    for name, gradient in whole.gradients[0].items():
        torch.testing.assert_close(cut.gradients[0][name], gradient, rtol=1e-3, atol=1e-6)
