"""Learner: parameters, optimiser and update in this process. It knows no recipe, run or world::

    learner = Learner(LearnerConfig(), model)
    metrics = learner.update([learner.work(batch, advantages)])

A batch that teaches nothing moves nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...agents.episode import StopReason
from ...agents.models.devices import computes_bf16
from ...agents.models.forward import Scores, score_batch
from ...foundation.errors import PluginError
from ...foundation.plugins import Need, Plugin
from ..batch import TokenBatch
from ..boundaries import memory_of
from ..credit.base import Advantages
from ..objective import Objective
from ..patience import check_finite
from ..work import Work
from .average import WeightAverage
from .config import LearnerConfig
from .critic import Critic
from .gradients import Gradients
from .optim import apply_step, make_optimizer, restore_optimizer
from .reference import Reference
from .rows import downsample, minibatches


class Learner:
    """A policy that is trained, with its optimiser, critic, reference and averaged weights.

    Args:
        config: how it is trained.
        model: the policy.
        longest: tokens that an episode can have, for losses that divide by it.
        needs: what others need: a critic ('values'), a reference ('ref_logprobs'), its own
            log-probabilities ('old_logprobs'), the weights that it begins with ('initial_weights').
        companions: plug-ins beside its objectives whose memory an update changes, so that a
            snapshot has it.
    """

    def __init__(
        self,
        config: LearnerConfig,
        model: nn.Module,
        *,
        longest: int | None = None,
        needs: Collection[Need] = (),
        companions: Sequence[Plugin] = (),
    ) -> None:
        self.config, self.model = config, model
        self.loss = config.loss.begin()
        if longest is not None:
            self.loss = self.loss.of_length(longest)
        self.regularizers = [term.begin() for term in config.regularizers]
        self.factors = {term.name: 1.0 for term in self.objectives}
        """On the coefficient of each objective, by name: whoever steers one sets it here."""
        asked = (term.needs() for term in self.objectives)
        self.needs = frozenset(needs).union(*asked)
        self.critic = Critic(model, config.critic) if Need.VALUES in self.needs else None
        self.reference = (
            Reference(model, config.reference) if Need.REF_LOGPROBS in self.needs else None
        )
        groups = [(model.parameters(), 1.0)]
        if self.critic is not None:
            groups.append((self.critic.parameters(), config.critic.lr / config.optim.lr))
        self.optimizer = make_optimizer(groups, config.optim)
        self.average = WeightAverage(model, config.average)
        self.companions = companions
        self.initial: dict[str, Tensor] = {}
        """The weights that are trained as they were at first, by name; empty if nobody needs them.
        """
        if Need.INITIAL_WEIGHTS in self.needs:
            known = {} if self.reference is None else self.reference.start
            self.initial = dict(known) or trained_copy(model)

    @property
    def objectives(self) -> list[Objective]:
        """List what is minimised: the loss, then the regularizers."""
        return [self.loss, *self.regularizers]

    @property
    def device(self) -> torch.device:
        """Return the device of the policy's weights, on which batches have to be."""
        return next(self.model.parameters()).device

    def measured(self, batch: TokenBatch, cut: Collection[StopReason] = ()) -> TokenBatch:
        """Add the costly fields that somebody needs.

        Args:
            cut: reasons to stop after which the critic's value of what would have come is wanted.
        """
        batch = self._scored(batch, self.needs)
        if self.critic is not None:
            rows = list(batch.split(self.config.token_budget))
            values_BL, bootstrap_E = self.critic.evaluate(
                self.model, batch, rows, batch.stopped_E(cut), bf16=self.config.bf16
            )
            batch = replace(batch, values_BL=values_BL, bootstrap_E=bootstrap_E)
        return batch

    def work(self, batch: TokenBatch, advantages: Advantages) -> Work:
        """Return the work of a step of its own: its objectives, on what was played.

        Args:
            advantages: per token, with the critic's targets if there is a critic.
        """
        if advantages.critic_targets_BL is not None:
            targets = {"critic_targets_BL": advantages.critic_targets_BL}
            batch = replace(batch, signals=batch.signals | targets)
        return Work("policy", batch, advantages.values, self.objectives)

    def update(self, works: Sequence[Work], step: int = 0, seed: int = 0) -> dict[str, float]:
        """Take all optimiser steps of one step; returns the metrics, averaged over them.

        The modules are in evaluation mode: the log-probabilities that are differentiated are those
        of the policy that played, without dropout. A minibatch without any gradient takes no step:
        the optimiser's moments would move the weights.

        Args:
            works: the step's own (see `work`), from which alone the critic learns, then others.
                Those that share its optimiser steps are cut into as many minibatches.
            step: of `config.steps`, from 0, for the schedule.
            seed: of what is drawn: minibatches, rows that are left out.

        Raises:
            RunFailed: a weight is not finite any more.
        """
        self.model.eval()
        if self.critic is not None:
            self.critic.eval()
        # All is measured before the first step: 'old' is the policy that none of them has moved.
        pairs = [
            (work, self._gradients(work, first=not index, step=step))
            for index, work in enumerate(self._complete(works, step, seed))
        ]
        joint = [(work, gradients) for work, gradients in pairs if not work.own_step]
        lr, config = self.config.optim.lr_at(step, self.config.steps), self.config
        cuts = minibatches(
            [work for work, _ in joint],
            config.updates,
            config.minibatches,
            seed * 1_000_003 + step,
        )
        skipped = 0
        for cut in cuts:
            parts = zip(joint, cut, strict=True)
            taught = [gradients.accumulate(*part) for (_, gradients), part in parts if part]
            skipped += not any(taught)
            if any(taught):
                self._step([gradients for _, gradients in joint], lr)
        for work, gradients in pairs:
            if work.own_step and gradients.accumulate(work.batch, work.advantages_BL):
                self._step([gradients], lr)
        check_finite(self.model, f"after step {step + 1}")
        self.average.update()
        if self.reference is not None:
            self.reference.follow(step + 1)
        metrics = {**works[0].metrics, **pairs[0][1].means(), "updates/skipped": float(skipped)}
        for work, gradients in pairs[1:]:
            found = {**work.metrics, **gradients.means()}
            metrics |= {f"{work.name}/{name}": value for name, value in found.items()}
        return metrics

    def _gradients(self, work: Work, *, first: bool, step: int) -> Gradients:
        """Make the gradients of a work, and of the critic if it is the first."""
        warming = self.critic is not None and step < self.config.critic.warmup_steps
        return Gradients(
            self.config,
            self.model,
            work.objectives,
            self.critic if first else None,
            warming=warming,
            factors=self.factors,
            scale=work.scale,
            moved=not first,
        )

    def _step(self, parts: Sequence[Gradients], lr: float) -> None:
        """Take an optimiser step by the gradients that were accumulated, told by the first part."""
        norms = apply_step(self.optimizer, lr, self.config.optim.max_grad_norm)
        for part in parts:
            part.moved = True
        for name, norm in zip(("grad_norm", "grad_norm/critic"), norms, strict=False):
            parts[0].note(name, norm)
        parts[0].note("lr", lr)
        parts[0].note("gradients/lost", float(not all(map(math.isfinite, norms))))

    def _complete(self, works: Sequence[Work], step: int, seed: int) -> Iterator[Work]:
        """Yield works with all that their objectives need, of as many sequences as take part.

        A further work that is too short for `rows_multiple_of` is left out.
        """
        multiple = self.config.rows_multiple_of
        for index, work in enumerate(works):
            needs = frozenset[Need]().union(*(term.needs() for term in work.objectives))
            if Need.REF_LOGPROBS in needs and self.reference is None:
                raise PluginError(
                    f"work '{work.name}' needs a reference, and the learner has none: who makes"
                    " such work names ref_logprobs among its own needs"
                )
            batch, advantages_BL = work.batch, work.advantages_BL
            if multiple > 1:
                if index and int(batch.mask_BL.any(1).sum()) < multiple:
                    continue
                rows = downsample(batch, multiple, seed * 1_000_003 + step)
                batch = batch.select(rows)
                advantages_BL = advantages_BL[rows, : batch.tokens_BL.shape[1]]
            yield replace(work, batch=self._scored(batch, needs), advantages_BL=advantages_BL)

    def _scored(self, batch: TokenBatch, needs: Collection[Need]) -> TokenBatch:
        """Add the log-probabilities that are needed and are not there."""
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
        bf16 = computes_bf16(self.config.bf16, self.device)
        if (Need.OLD_LOGPROBS in needs or bf16) and "old" not in batch.scores:
            batch = batch.with_scores(old=scores_of(self.model))
        if Need.REF_LOGPROBS in needs and "ref" not in batch.scores:
            assert self.reference is not None
            with self.reference.model() as reference:
                batch = batch.with_scores(ref=scores_of(reference))
        return batch

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
            "factors": dict(self.factors),
            "initial": self.initial,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        for name, saved in state["initial"].items():
            self.initial[name].copy_(saved)
        self._restore(state)

    def _restore(self, state: Mapping[str, Any]) -> None:
        restore_optimizer(self.optimizer, state["optimizer"])
        for module, key in ((self.critic, "critic"), (self.reference, "reference")):
            if module is not None and key in state:
                module.load_state_dict(state[key])
        self.average.load_state_dict(state["average"])
        self.factors = dict(state["factors"])

    def snapshot(self) -> dict[str, Any]:
        """Copy all that an update changes, to `rollback` to; frozen weights and a reference that
        stands still are not copied.
        """
        state = self.state_dict()
        still = {"initial"}
        if self.reference is None or not self.reference.follows:
            still.add("reference")
        changing = {key: value for key, value in state.items() if key not in still}
        memories = [memory_of(plugin) for plugin in (*self.objectives, *self.companions)]
        copied: dict[str, Any] = copy.deepcopy(changing)
        return copied | {"weights": trained_copy(self.model), "memories": memories}

    @torch.no_grad()
    def rollback(self, snapshot: Mapping[str, Any]) -> None:
        """Undo every update since a `snapshot` was taken."""
        policy = dict(self.model.named_parameters())
        for name, weight in snapshot["weights"].items():
            policy[name].copy_(weight)
        # An optimiser goes on with the tensors that it is given, and one can go back here again.
        self._restore(copy.deepcopy(dict(snapshot)))
        remembering = (*self.objectives, *self.companions)
        for plugin, memory in zip(remembering, snapshot["memories"], strict=True):
            plugin.load_state_dict(copy.deepcopy(memory))


def trained_copy(model: nn.Module) -> dict[str, Tensor]:
    """Copy the weights that are trained, by name; those that are tied once."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
