"""Learner: what one batch does to the weights does not depend on how it is cut or packed."""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from turnrl.agents.config import AgentConfig
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.agents.episode import Group, episodes_of
from turnrl.agents.models import tiny
from turnrl.envs import Task
from turnrl.envs.pool.pool import EnvPool
from turnrl.foundation.plugins import Need
from turnrl.training.batch import TokenBatch
from turnrl.training.credit.base import Advantages
from turnrl.training.learner.critic import Critic
from turnrl.training.learner.gradients import Gradients
from turnrl.training.learner.local import Learner
from turnrl.training.losses.base import PolicyLoss
from turnrl.training.source.rollout import rollout
from turnrl.training.stages.rl import Rl

from ..agents.fake_engine import tokenizer
from .builders import scores


@cache
def model() -> Any:
    return tiny.build(tokenizer(), layers=1, width=16, heads=2, max_context=256, init_std=0.3)


@cache
def played(context: str, temperature: float = 1.0) -> list[Group]:
    """Groups as sampled by the model; most episodes are cut by the turn limit."""
    config = AgentConfig.model_validate(
        {
            "system": False,
            "context": {"name": context, **({"turns": 1} if context == "sliding_window" else {})},
            "sampling": {"max_tokens": 4, "temperature": temperature},
        }
    )
    agent = config.build(TorchEngine(model(), tokenizer()), tokenizer())
    tasks = [Task(env="toy/lights-v0", seed=seed) for seed in range(3)]

    async def work() -> list[Group]:
        async with EnvPool() as pool:
            options: Any = {
                "group_size": 3,
                "step": 0,
                "seed": 3,
                "max_turns": 4,
                "concurrency": 64,
            }
            return (await rollout(tasks, agent, pool, **options))[0]

    return asyncio.run(work())


def batch_of(context: str, *, merge: bool = True, temperature: float = 1.0) -> TokenBatch:
    return TokenBatch.pack(played(context, temperature), merge=merge, temperature=temperature)


def advantages(batch: TokenBatch) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return batch.spread(torch.randn(batch.episodes, batch.max_turns, generator=generator))


def tokens(values_BL: Tensor, targets_BL: Tensor | None = None) -> Advantages:
    return Advantages(values_BL, "token", targets_BL)


class Step:
    """One update on a copy of the model; keeps the gradients of every optimiser step."""

    def __init__(
        self,
        batch: TokenBatch,
        build: Callable[[Any, Rl], Critic] | None = None,
        advantages_BL: Tensor | None = None,
        targets_BL: Tensor | None = None,
        **stage: Any,
    ) -> None:
        self.model = copy.deepcopy(model())
        self.stage = Rl.model_validate({"optim": {"lr": 0.01}, "steps": 10} | stage)
        needs = {Need.VALUES} if build else set()
        self.learner = learner = Learner(self.stage, self.model, needs=needs)
        self.critic = learner.critic
        if build and self.critic is not None:
            self.critic.load_state_dict(build(self.model, self.stage).state_dict())
        self.gradients: list[dict[str, Tensor]] = []
        learner.optimizer.register_step_pre_hook(lambda *_: self.gradients.append(self._now()))
        if advantages_BL is None:
            advantages_BL = advantages(batch)
        work = learner.work(batch, tokens(advantages_BL, targets_BL))
        self.metrics = learner.update([work])

    def again(
        self, batch: TokenBatch, advantages_BL: Tensor, targets_BL: Tensor | None = None
    ) -> dict[str, float]:
        """The metrics of a second update."""
        return self.learner.update([self.learner.work(batch, tokens(advantages_BL, targets_BL))], 1)

    def _now(self) -> dict[str, Tensor]:
        return {
            name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None
        }


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    assert left
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("context", ["full_history", "sliding_window"])
@pytest.mark.parametrize("loss", ["ppo_clip", "reinforce"])
def test_micro_batches_and_packing_change_nothing(context: str, loss: str) -> None:
    options: dict[str, Any] = {"loss": {"name": loss, "aggregation": "seq_mean_token_mean"}}
    batch = batch_of(context)
    whole = Step(batch, token_budget=10**6, **options)
    assert len(whole.gradients) == 1
    for other in (
        Step(batch, token_budget=1, **options),
        Step(batch, token_budget=150, **options),
        Step(batch_of(context, merge=False), **options),
    ):
        same(other.gradients[0], whole.gradients[0])
        shared = whole.metrics.keys() & other.metrics.keys()
        assert shared == whole.metrics.keys()
        for name in shared:
            assert other.metrics[name] == pytest.approx(whole.metrics[name], rel=1e-4, abs=1e-5)
    assert len(batch_of(context, merge=False).lengths_B) > len(batch.lengths_B)


@pytest.mark.parametrize("loss", ["ppo_clip", "reinforce"])
def test_sequences_without_advantage_are_left_out_and_change_nothing(
    loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, silent = batch_of("full_history"), 4
    advantages_BL = advantages(batch)
    advantages_BL[:silent] = 0
    options: dict[str, Any] = {
        "loss": {"name": loss},
        "minibatches": 2,
        "updates": 2,
        "advantages_BL": advantages_BL,
    }
    part = Step(batch, **options)
    monkeypatch.setattr(PolicyLoss, "skips_zero", False)
    whole = Step(batch, **options)
    assert len(part.gradients) == len(whole.gradients) == 4
    for left, right in zip(part.gradients, whole.gradients, strict=True):
        same(left, right)
    assert part.metrics["sequences/used"] == pytest.approx(1 - silent / 9, abs=0.05)
    assert whole.metrics["sequences/used"] == 1
    for name, weight in part.model.named_parameters():
        torch.testing.assert_close(weight, whole.model.get_parameter(name), rtol=1e-3, atol=1e-5)


def test_a_minibatch_without_advantage_takes_no_step() -> None:
    """The moments of the optimiser would move the weights, though nothing was learnt."""
    batch = batch_of("full_history")
    half = advantages(batch)
    half[batch.episode_B > 0] = 0
    step = Step(batch, minibatches=9, advantages_BL=half, optim={"lr": 0.01, "weight_decay": 0.1})
    assert len(step.gradients) == 1
    assert step.metrics["updates/skipped"] == 8
    before = copy.deepcopy(step.model.state_dict())
    metrics = step.again(batch, torch.zeros_like(half))
    assert metrics["updates/skipped"] == 9
    assert {"engine_gap", "entropy", "loss/policy"} <= metrics.keys(), "still measured"
    for name, weight in step.model.state_dict().items():
        assert torch.equal(weight, before[name])
    assert len(step.gradients) == 1


@pytest.mark.parametrize("regularizers", [[], [{"name": "entropy"}]])
def test_a_minibatch_that_importance_sampling_masks_takes_no_step(
    regularizers: list[dict[str, Any]],
) -> None:
    batch = batch_of("full_history")
    loss = {"name": "ppo_clip", "importance": {"mode": "token_mask"}}
    sampled_BL = batch.logprobs_of("engine")
    near, far = (batch.with_scores(old=scores(sampled_BL - gap)) for gap in (0.0, 5.0))
    step = Step(near, loss=loss, regularizers=regularizers)
    assert len(step.gradients) == 1
    assert step.metrics["importance_ess"] == pytest.approx(1.0)
    before = copy.deepcopy(step.model.state_dict())
    metrics = step.again(far, advantages(batch))
    assert (metrics["updates/skipped"], metrics["importance_ess"], metrics["importance_cut"]) == (
        1,
        0,
        1,
    )
    for name, weight in step.model.state_dict().items():
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize("backbone", ["separate", "shared"])
def test_a_critic_learns_where_the_policy_has_no_advantage(backbone: str) -> None:
    """On layers of its own it moves nothing of the policy, whatever the optimiser's moments say."""
    batch = batch_of("full_history")
    build = lambda policy, stage: Critic(policy, stage.critic)
    mask = batch.mask_BL
    values = torch.where(mask, 0.1, 0.0)
    returns = torch.where(mask, 1.0, math.nan)
    batch = replace(batch, values_BL=values)
    step = Step(batch, build, targets_BL=returns, critic={"backbone": backbone})
    before = copy.deepcopy(step.model.state_dict())
    metrics = step.again(batch, torch.zeros(mask.shape), returns)
    assert metrics["updates/skipped"] == 0
    assert metrics["grad_norm/critic"] > 0
    assert metrics["value/error"] > 0
    assert 0 <= metrics["value/clip_fraction"] <= 1
    moved = any(
        not torch.equal(weight, before[name]) for name, weight in step.model.state_dict().items()
    )
    assert moved == (backbone == "shared")


def test_the_largest_gap_to_the_engine_is_reported_beside_the_mean() -> None:
    metrics = Step(batch_of("sliding_window"), token_budget=150, updates=2).metrics
    assert 0 < metrics["engine_gap"] < metrics["engine_gap/max"] < 1e-4


def test_every_sequence_is_used_by_a_regularizer() -> None:
    batch = batch_of("full_history")
    silent = torch.zeros_like(advantages(batch))
    assert Step(batch, advantages_BL=silent).metrics["sequences/used"] == 0
    bonus = Step(batch, advantages_BL=silent, regularizers=[{"name": "entropy"}])
    assert bonus.metrics["sequences/used"] == 1
    assert bonus.metrics["grad_norm"] > 0


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("context", ["full_history", "sliding_window"])
def test_the_first_update_has_ratio_one(context: str, merge: bool, temperature: float) -> None:
    batch = batch_of(context, merge=merge, temperature=temperature)
    metrics = Step(batch).metrics
    assert metrics["engine_gap"] < 1e-5
    assert abs(metrics["approx_kl"]) < 1e-8
    assert metrics["clip_fraction_high"] == metrics["clip_fraction_low"] == 0
    # With ratio 1 the loss is minus the mean advantage.
    expected = -float(advantages(batch)[batch.mask_BL].mean())
    assert metrics["loss/policy"] == pytest.approx(expected, abs=1e-5)


def test_minibatches_cover_every_episode_once_per_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of("sliding_window")
    seen: list[list[int]] = []
    accumulate = Gradients._accumulate

    def watch(self: Gradients, part: TokenBatch, advantages_BL: Tensor, *, policy: bool) -> None:
        assert advantages_BL.shape == part.tokens_BL.shape
        whole_BL = advantages(batch)
        for b, episode in enumerate(part.episode_B.tolist()):
            match = [r for r in range(len(batch.episode_B)) if int(batch.episode_B[r]) == episode]
            row = match[[i for i, e in enumerate(part.episode_B.tolist()) if e == episode].index(b)]
            width = min(part.tokens_BL.shape[1], whole_BL.shape[1])
            assert torch.equal(advantages_BL[b, :width].float(), whole_BL[row, :width].float())
        seen.append(sorted(set(part.episode_B.tolist())))
        accumulate(self, part, advantages_BL, policy=policy)

    monkeypatch.setattr(Gradients, "_accumulate", watch)
    step = Step(batch, minibatches=4, updates=2)
    with_tokens = sorted(set(batch.episode_B.tolist()))
    half = len(seen) // 2
    assert [
        sorted(e for minibatch in part for e in minibatch) for part in (seen[:half], seen[half:])
    ] == [
        with_tokens,
        with_tokens,
    ]
    assert seen[:half] != seen[half:]
    assert len(step.gradients) == len(seen)
    assert len(Step(batch, updates=3).gradients) == 3


def test_minibatches_of_a_loss_of_groups_are_whole_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of("sliding_window")
    group_E, seen = batch.group_E.tolist(), list[set[int]]()
    accumulate = Gradients._accumulate

    def watch(self: Gradients, part: TokenBatch, advantages_BL: Tensor, *, policy: bool) -> None:
        seen.append(set(part.episode_B.tolist()))
        accumulate(self, part, advantages_BL, policy=policy)

    monkeypatch.setattr(Gradients, "_accumulate", watch)
    groups = len(set(group_E))
    Step(batch, minibatches=groups, loss={"name": "real"})
    assert groups > 1
    for episodes in seen:
        mine = {group_E[episode] for episode in episodes}
        assert episodes == {e for e in set(batch.episode_B.tolist()) if group_E[e] in mine}
    assert sorted(e for part in seen for e in part) == sorted(set(batch.episode_B.tolist()))


def test_metrics_of_trouble() -> None:
    batch = batch_of("full_history")
    metrics = Step(
        batch,
        updates=4,
        optim={"lr": 0.2},
        loss={"name": "ppo_clip", "clip_low": 0.05, "clip_high": 0.05},
    ).metrics
    assert metrics["clip_fraction_high"] + metrics["clip_fraction_low"] > 0
    assert metrics["approx_kl"] > 0
    assert metrics["engine_gap"] < 1e-5, "measured before the policy moved"
    assert {"entropy", "grad_norm", "lr", "loss/policy"} <= metrics.keys()
    assert 0 < metrics["entropy"] < math.log(len(tokenizer()))


def test_entropy_is_reported_once() -> None:
    batch = batch_of("full_history")
    plain, bonus = Step(batch), Step(batch, regularizers=[{"name": "entropy", "coefficient": 0.1}])
    assert bonus.metrics["entropy"] == pytest.approx(plain.metrics["entropy"], rel=1e-5)
    assert any(
        not torch.allclose(bonus.gradients[0][name], plain.gradients[0][name])
        for name in plain.gradients[0]
    )


def test_schedule_and_clipping_are_applied() -> None:
    batch = batch_of("full_history")
    step = Step(batch, optim={"lr": 0.01, "warmup_steps": 3, "max_grad_norm": 1e-3})
    assert step.metrics["lr"] == pytest.approx(0.01 / 4)
    norm = math.sqrt(sum(float((g**2).sum()) for g in step.gradients[0].values()))
    assert norm == pytest.approx(1e-3, rel=1e-2)
    assert step.metrics["grad_norm"] > 1e-3


def test_a_poisoned_batch_leaves_the_weights_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        globals(), "advantages", lambda batch: batch.mask_BL * torch.tensor(float("nan"))
    )
    step = Step(batch_of("full_history"))
    assert not step.gradients
    assert math.isnan(step.metrics["grad_norm"])
    for p, original in zip(step.model.parameters(), model().parameters(), strict=True):
        assert torch.equal(p, original)


def test_bf16_is_close_over_float32_weights() -> None:
    batch = batch_of("full_history")
    exact, rough = Step(batch), Step(batch, bf16=True)
    assert all(g.dtype == torch.float32 for g in rough.gradients[0].values())
    a, b = (torch.cat([g.flatten() for g in s.gradients[0].values()]) for s in (exact, rough))
    assert float(torch.cosine_similarity(a, b, dim=0)) > 0.98


def test_the_batch_is_what_was_played() -> None:
    episodes = episodes_of(played("sliding_window"))
    assert len(episodes) == 9
    assert any(not turn.extends for e in episodes for turn in e.turns[1:])
    assert int(batch_of("sliding_window").mask_BL.sum()) == sum(e.response_tokens for e in episodes)
