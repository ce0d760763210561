"""Learner: parameters, optimiser and update in this process. It knows no recipe, run or world::

    learner = Learner(LearnerConfig(), model)
    metrics = learner.update(batch, advantages)

A batch that teaches nothing moves nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...agents.episode import StopReason
from ...agents.models.forward import Scores, score_batch
from ...foundation.plugins import Need
from ..batch import TokenBatch
from ..credit.base import Advantages
from ..objective import Objective
from ..patience import check_finite
from .average import WeightAverage
from .config import LearnerConfig
from .critic import Critic
from .gradients import Gradients
from .optim import apply_step, make_optimizer, restore_optimizer
from .rows import downsample


class Learner:
    """A policy that is trained, with its optimiser, critic, reference and averaged weights.

    Args:
        config: how it is trained.
        model: the policy.
        longest: tokens that an episode can have, for losses that divide by it.
        needs: what others that use its batches need: a critic ('values'), a reference
            ('ref_logprobs'), its own log-probabilities ('old_logprobs').
    """

    def __init__(
        self,
        config: LearnerConfig,
        model: nn.Module,
        *,
        longest: int | None = None,
        needs: Collection[Need] = (),
    ) -> None:
        self.config, self.model = config, model
        self.loss = config.loss.begin()
        if longest is not None:
            self.loss = self.loss.of_length(longest)
        self.regularizers = [term.begin() for term in config.regularizers]
        asked = (term.needs() for term in self.objectives)
        self.needs = frozenset(needs).union(*asked)
        self.critic = Critic(model, config.critic) if Need.VALUES in self.needs else None
        self.reference = frozen_copy(model) if Need.REF_LOGPROBS in self.needs else None
        groups = [(model.parameters(), 1.0)]
        if self.critic is not None:
            groups.append((self.critic.parameters(), config.critic.lr / config.optim.lr))
        self.optimizer = make_optimizer(groups, config.optim)
        self.average = WeightAverage(model, config.average)

    @property
    def objectives(self) -> list[Objective]:
        """List what is minimised: the loss, then the regularizers."""
        return [self.loss, *self.regularizers]

    @property
    def device(self) -> torch.device:
        """Return the device of its weights, on which its batches have to be."""
        return next(self.model.parameters()).device

    def measured(self, batch: TokenBatch, cut: Collection[StopReason] = ()) -> TokenBatch:
        """Add the costly fields that somebody needs.

        Args:
            cut: reasons to stop after which the critic's value of what would have come is wanted.
        """
        rows = list(batch.split(self.config.token_budget))

        def scores_of(policy: nn.Module) -> Scores:
            return score_batch(
                policy,
                batch.tokens_BL,
                batch.mask_BL,
                rows,
                temperature=batch.temperature,
                bf16=self.config.bf16,
            )

        # bfloat16 is not the engine's arithmetic: its log-probabilities are of another policy.
        if Need.OLD_LOGPROBS in self.needs or self.config.bf16:
            batch = batch.with_scores(old=scores_of(self.model))
        if self.reference is not None:
            batch = batch.with_scores(ref=scores_of(self.reference))
        if self.critic is not None:
            values_BL, bootstrap_E = self.critic.evaluate(
                self.model, batch, rows, batch.stopped_E(cut), bf16=self.config.bf16
            )
            batch = replace(batch, values_BL=values_BL, bootstrap_E=bootstrap_E)
        return batch

    def update(
        self, batch: TokenBatch, advantages: Advantages, step: int = 0, seed: int = 0
    ) -> dict[str, float]:
        """Take all optimiser steps of one batch; returns the metrics, averaged over them.

        The modules are in evaluation mode: the log-probabilities that are differentiated are those
        of the policy that played, without dropout. A minibatch without any gradient takes no step:
        the optimiser's moments would move the weights.

        Args:
            advantages: per token.
            step: of `config.steps`, from 0, for the schedule.
            seed: of what is drawn: minibatches, rows that are left out.

        Raises:
            RunFailed: a weight is not finite any more.
        """
        config, skipped = self.config, 0
        self.model.eval()
        if self.critic is not None:
            self.critic.eval()
        warming = self.critic is not None and step < config.critic.warmup_steps
        work = Gradients(config, self.model, self.loss, self.regularizers, self.critic, warming)
        lr = config.optim.lr_at(step, config.steps)
        batch, advantages_BL = self._used(batch, advantages, work.dtype, step, seed)
        for part, part_BL in self._minibatches(batch, advantages_BL, step, seed):
            if not work.accumulate(part, part_BL):
                skipped += 1
                continue
            norms = apply_step(self.optimizer, lr, config.optim.max_grad_norm)
            work.moved = True
            for name, norm in zip(("grad_norm", "grad_norm/critic"), norms, strict=False):
                work.note(name, norm)
            work.note("lr", lr)
            work.note("gradients/lost", float(not all(map(math.isfinite, norms))))
        check_finite(self.model, f"after step {step + 1}")
        self.average.update()
        return work.means() | {"updates/skipped": float(skipped)}

    def _used(
        self,
        batch: TokenBatch,
        advantages: Advantages,
        dtype: torch.dtype,
        step: int,
        seed: int,
    ) -> tuple[TokenBatch, Tensor]:
        """The sequences that take part, with the critic's targets beside them, and their
        advantages.
        """
        advantages_BL = advantages.values.to(dtype)
        if advantages.critic_targets_BL is not None:
            targets = {"critic_targets_BL": advantages.critic_targets_BL}
            batch = replace(batch, signals=batch.signals | targets)
        if self.config.rows_multiple_of > 1:
            rows = downsample(batch, self.config.rows_multiple_of, seed * 1_000_003 + step)
            batch = batch.select(rows)
            advantages_BL = advantages_BL[rows, : batch.tokens_BL.shape[1]]
        return batch, advantages_BL

    def _minibatches(
        self, batch: TokenBatch, advantages_BL: Tensor, step: int, seed: int
    ) -> Iterator[tuple[TokenBatch, Tensor]]:
        """Whole episodes, shuffled anew for each pass."""
        for epoch in range(self.config.updates):
            if self.config.minibatches == 1:
                yield batch, advantages_BL
                continue
            generator = torch.Generator("cpu").manual_seed((seed * 1_000_003 + step) * 101 + epoch)
            order = torch.randperm(batch.episodes, generator=generator, device="cpu")
            for chosen in order.to(batch.device).chunk(self.config.minibatches):
                rows = torch.isin(batch.episode_B, chosen).nonzero().flatten()
                if len(rows):
                    part = batch.select(rows)
                    yield part, advantages_BL[rows, : part.tokens_BL.shape[1]]

    # -- weights and memory ------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """Return the policy's weights, as an engine takes them."""
        return self.model.state_dict()

    def averaged(self) -> AbstractContextManager[None]:
        """Give the policy its averaged weights inside the block."""
        return self.average.applied()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs beside the policy's weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "critic": None if self.critic is None else self.critic.state_dict(),
            "reference": None if self.reference is None else self.reference.state_dict(),
            "average": self.average.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        restore_optimizer(self.optimizer, state["optimizer"])
        for module, key in ((self.critic, "critic"), (self.reference, "reference")):
            if module is not None:
                module.load_state_dict(state[key])
        self.average.load_state_dict(state["average"])

    def snapshot(self) -> dict[str, Any]:
        """Copy all that an update changes, to `rollback` to."""
        return copy.deepcopy({"weights": self.weights()} | self.state_dict())

    def rollback(self, snapshot: Mapping[str, Any]) -> None:
        """Undo every update since a `snapshot` was taken."""
        self.model.load_state_dict(snapshot["weights"])
        self.load_state_dict(copy.deepcopy(dict(snapshot)))


def frozen_copy(model: nn.Module) -> nn.Module:
    """Copy the policy as it is now, never to be trained."""
    return copy.deepcopy(model).eval().requires_grad_(False)
