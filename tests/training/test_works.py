"""Works: what further batches add to an update, and factors on what is minimised."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor
from turnrl.agents.models.forward import Scores, score
from turnrl.foundation.errors import PluginError
from turnrl.foundation.plugins import Need
from turnrl.training.batch import TokenBatch
from turnrl.training.learner.config import LearnerConfig
from turnrl.training.learner.local import Learner
from turnrl.training.losses.base import LOSSES
from turnrl.training.objective import LossOutput, Objective
from turnrl.training.regularizers.base import REGULARIZERS
from turnrl.training.work import Work

from .test_update import advantages, batch_of, model, tokens


class Likelihood(Objective):
    """Minus the log-probability: a term that is neither a loss nor a regularizer of a recipe."""

    name: Literal["likelihood"] = "likelihood"

    def token_loss(self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor) -> LossOutput:
        return LossOutput(-scores.logprobs_BL, {"nll": -scores.logprobs_BL.detach()})


class Watched:
    """A learner whose gradients are kept, optimiser step by optimiser step."""

    def __init__(self, needs: set[Need] | None = None, **fields: Any) -> None:
        config = {"optim": {"lr": 0.01, "max_grad_norm": 1e9}, "steps": 10, "token_budget": 120}
        self.learner = Learner(
            LearnerConfig.model_validate(config | fields),
            copy.deepcopy(model()),
            needs=needs or set(),
        )
        self.steps: list[Tensor] = []
        self.learner.optimizer.register_step_pre_hook(lambda *_: self.steps.append(self._now()))

    def _now(self) -> Tensor:
        found = [
            torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for p in self.learner.model.parameters()
        ]
        return torch.cat([gradient.flatten() for gradient in found])

    def update(self, *more: Work, batch: TokenBatch | None = None) -> dict[str, float]:
        """An update of the step's own work, then `more`."""
        batch = batch_of("full_history") if batch is None else batch
        own = self.learner.work(batch, tokens(advantages(batch)))
        return self.learner.update([own, *more])

    @property
    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.learner.model.parameters()])


def other(objectives: Sequence[Objective] = (Likelihood(),), **fields: Any) -> Work:
    batch = batch_of("sliding_window")
    return Work("more", batch, advantages(batch), objectives, **fields)


OBJECTIVES: dict[str, Sequence[Objective]] = {
    "an objective of its own": [Likelihood(coefficient=0.7)],
    "a policy loss": [LOSSES.build({"name": "reinforce", "aggregation": "seq_mean_token_sum"})],
    "a loss of whole episodes and a regularizer": [
        LOSSES.build({"name": "gspo"}),
        REGULARIZERS.build({"name": "entropy", "coefficient": 0.2}),
    ],
}


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_further_work_adds_its_scaled_gradient_to_the_same_step(kind: str) -> None:
    alone, both, added = Watched(), Watched(), Watched()
    alone.update()
    both.update(other(OBJECTIVES[kind], scale=0.3))
    added.learner.update([other(OBJECTIVES[kind])])
    assert len(alone.steps) == len(both.steps) == len(added.steps) == 1
    expected = alone.steps[0] + 0.3 * added.steps[0]
    assert float(added.steps[0].norm()) > 1e-3
    torch.testing.assert_close(both.steps[0], expected, rtol=1e-4, atol=1e-6)


def test_without_a_loss_a_work_is_a_mean_over_its_sampled_tokens() -> None:
    watched, work = Watched(), other()
    metrics = watched.learner.update([work])
    policy = copy.deepcopy(model())
    found = score(policy, work.batch.tokens_BL, work.batch.mask_BL).logprobs_BL
    value = -found[work.batch.mask_BL].mean()
    value.backward()
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters()])
    torch.testing.assert_close(watched.steps[0], gradient, rtol=1e-4, atol=1e-6)
    assert metrics["loss/likelihood"] == pytest.approx(float(value.detach()), rel=1e-5)
    assert metrics["nll"] == pytest.approx(float(value.detach()), rel=1e-5)


def test_works_are_cut_into_as_many_minibatches_and_told_apart_in_the_metrics() -> None:
    plain, watched = Watched(minibatches=4, updates=2), Watched(minibatches=4, updates=2)
    before, after = plain.update(), watched.update(other())
    assert len(watched.steps) == len(plain.steps)
    assert before.keys() <= after.keys()
    added = after.keys() - before.keys()
    assert {"more/loss/likelihood", "more/nll", "more/entropy"} <= added
    assert all(name.startswith("more/") for name in added)


def test_a_work_with_a_step_of_its_own_takes_it_after_the_others() -> None:
    plain, watched, alone = Watched(minibatches=2), Watched(minibatches=2), Watched()
    plain.update()
    metrics = watched.update(other(own_step=True, scale=0.5))
    assert len(watched.steps) == len(plain.steps) + 1
    for left, right in zip(watched.steps[:-1], plain.steps, strict=True):
        assert torch.equal(left, right)
    # The gradient of its own step is taken where the others have left the policy.
    alone.learner.model.load_state_dict(plain.learner.model.state_dict())
    alone.learner.update([other(scale=0.5)])
    torch.testing.assert_close(watched.steps[-1], alone.steps[0], rtol=1e-4, atol=1e-6)
    assert metrics["more/grad_norm"] == pytest.approx(float(alone.steps[0].norm()), rel=1e-4)


@pytest.mark.parametrize("own_step", [True, False])
def test_a_work_that_teaches_nothing_changes_nothing(own_step: bool) -> None:
    silent = replace(
        other([LOSSES.build({"name": "reinforce"})], own_step=own_step),
        advantages_BL=torch.zeros_like(other().advantages_BL),
    )
    plain = Watched()
    plain.update()
    for work in (silent, other(scale=0.0, own_step=own_step)):
        watched = Watched()
        watched.update(work)
        assert len(watched.steps) == 1
        assert torch.equal(watched.weights, plain.weights)


def test_the_critic_learns_from_the_first_work_alone() -> None:
    batch = batch_of("full_history")
    targets_BL = torch.where(batch.mask_BL, 1.0, float("nan"))
    found = []
    for more in ([], [other()]):
        learner = Watched({Need.VALUES}).learner
        measured = learner.measured(batch)
        own = learner.work(measured, tokens(advantages(batch), targets_BL))
        learner.update([own, *more])
        assert learner.critic is not None
        found.append(torch.cat([p.detach().flatten() for p in learner.critic.parameters()]))
    assert torch.equal(*found)


def test_what_a_work_needs_is_computed_before_the_first_step() -> None:
    kl = REGULARIZERS.build({"name": "kl", "coefficient": 0.5})
    watched = Watched({Need.REF_LOGPROBS})
    with torch.no_grad():
        for parameter in watched.learner.model.parameters():
            parameter.mul_(1.1)
    given = replace(other([kl]), batch=watched.learner.measured(other().batch))
    again = copy.deepcopy(watched.learner)
    first, second = watched.learner.update([given]), again.update([other([kl])])
    assert first == second
    assert first["kl"] > 0
    with pytest.raises(PluginError, match="work 'more' needs a reference"):
        Watched().update(other([kl]))


def test_a_further_work_of_fewer_sequences_than_the_multiple_is_left_out() -> None:
    plain, watched = Watched(rows_multiple_of=4), Watched(rows_multiple_of=4)
    few = other().batch.select([0, 1, 2])
    plain.update()
    metrics = watched.update(Work("few", few, torch.ones(few.tokens_BL.shape), [Likelihood()]))
    assert torch.equal(plain.weights, watched.weights)
    assert not any(name.startswith("few/") for name in metrics)


def test_a_factor_is_one_more_coefficient_and_is_saved() -> None:
    def kl(coefficient: float) -> Watched:
        fields = [{"name": "kl", "coefficient": coefficient}, {"name": "entropy"}]
        made = Watched(regularizers=fields)
        assert made.learner.reference is not None
        with torch.no_grad():
            for parameter in made.learner.reference.own.values():
                parameter.mul_(1.1)
        return made

    def learnt(watched: Watched) -> Tensor:
        watched.update(batch=watched.learner.measured(batch_of("full_history")))
        return watched.weights

    doubled, steered = kl(0.5), kl(0.25)
    assert steered.learner.factors == {"ppo_clip": 1.0, "kl": 1.0, "entropy": 1.0}
    steered.learner.factors["kl"] = 2.0
    kept = steered.learner.snapshot()
    assert torch.equal(learnt(doubled), learnt(steered))
    steered.learner.factors["kl"] = 3.0
    steered.learner.rollback(kept)
    resumed = kl(0.25).learner
    resumed.load_state_dict(steered.learner.state_dict())
    assert steered.learner.factors == {"ppo_clip": 1.0, "kl": 2.0, "entropy": 1.0}
    assert resumed.factors == steered.learner.factors


class Twin(Likelihood):
    """Another term of the same name."""

    requires: ClassVar[frozenset[Need]] = frozenset()


def test_a_work_that_cannot_be_added_up_is_refused() -> None:
    losses = [LOSSES.build({"name": name}) for name in ("reinforce", "ppo_clip")]
    with pytest.raises(ValueError, match="'more' has two policy losses"):
        other(losses)
    for wrong in ([], [Likelihood(), Twin()]):
        with pytest.raises(ValueError, match="'more' needs objectives of different names"):
            other(wrong)
    with pytest.raises(ValueError, match=r"'more' has advantages \[9\] for a batch"):
        replace(other(), advantages_BL=torch.zeros(9))
