"""One batch of advantages becomes optimiser steps: token-budget micro-batches, exact sums, metrics
of trouble.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ...agents.models.forward import Scores, autocast, score
from ...foundation.plugins import Need
from ..batch import TokenBatch
from ..boundaries import policy_loss, regularizing
from ..credit.base import Advantages
from ..losses.base import PolicyLoss
from ..recipe import RlStage
from ..regularizers.base import Regularizer
from .critic import Critic
from .optim import apply_step
from .rows import downsample
from .value_loss import explained_variance, value_loss, value_weights


@dataclass(slots=True)
class Learner:
    """What an update needs beside the batch."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    stage: RlStage
    loss: PolicyLoss
    regularizers: list[Regularizer]
    critic: Critic | None = None
    metrics: dict[str, list[float]] = field(default_factory=dict)
    _moved: bool = False
    """Whether the policy has taken a step on this batch."""
    _warming: bool = False
    """Only the critic learns."""

    def update(
        self, batch: TokenBatch, advantages: Advantages, step: int, seed: int
    ) -> dict[str, float]:
        """Take all optimiser steps of one batch; returns the metrics, averaged over them.

        The modules are in evaluation mode: the log-probabilities that are differentiated are those
        of the policy that played, without dropout. A minibatch without any gradient takes no step:
        the optimiser's moments would move the weights.

        Args:
            advantages: per token.
            step: of the stage, for the schedule.
        """
        self.metrics, skipped = {}, 0
        self._moved = False
        self.model.eval()
        if self.critic is not None:
            self.critic.eval()
        self._warming = self.critic is not None and step < self.stage.critic.warmup_steps
        batch, advantages_BL = self._used(batch, advantages, step, seed)
        for part, part_BL in self._minibatches(batch, advantages_BL, step, seed):
            signals, metrics = self.loss.prepare(part)
            part = replace(part, signals=part.signals | signals)
            for name, value in metrics.items():
                self._note(name, value)
            policy = not self._warming and self._teaches(part, part_BL)
            self._accumulate(part, part_BL, policy=policy)
            if not policy and self.critic is None:
                skipped += 1
                continue
            lr = self.stage.optim.lr_at(step, self.stage.steps)
            norms = apply_step(self.optimizer, lr, self.stage.optim.max_grad_norm)
            self._moved = True
            for name, norm in zip(("grad_norm", "grad_norm/critic"), norms, strict=False):
                self._note(name, norm)
            self._note("lr", lr)
            self._note("gradients/lost", float(not all(map(math.isfinite, norms))))
        means = {name: sum(values) / len(values) for name, values in self.metrics.items()}
        if "engine_gap/max" in self.metrics:
            means["engine_gap/max"] = max(self.metrics["engine_gap/max"])
        return means | {"updates/skipped": float(skipped)}

    def _used(
        self, batch: TokenBatch, advantages: Advantages, step: int, seed: int
    ) -> tuple[TokenBatch, Tensor]:
        """The sequences that take part, with the critic's targets beside them, and their
        advantages.
        """
        advantages_BL = advantages.values.float()
        if advantages.critic_targets_BL is not None:
            targets = {"critic_targets_BL": advantages.critic_targets_BL}
            batch = replace(batch, signals=batch.signals | targets)
        if self.stage.rows_multiple_of > 1:
            rows = downsample(batch, self.stage.rows_multiple_of, seed * 1_000_003 + step)
            batch = batch.select(rows)
            advantages_BL = advantages_BL[rows, : batch.tokens_BL.shape[1]]
        return batch, advantages_BL

    def _minibatches(
        self, batch: TokenBatch, advantages_BL: Tensor, step: int, seed: int
    ) -> Iterator[tuple[TokenBatch, Tensor]]:
        """Whole episodes, shuffled anew for each pass."""
        for epoch in range(self.stage.updates):
            if self.stage.minibatches == 1:
                yield batch, advantages_BL
                continue
            generator = torch.Generator().manual_seed((seed * 1_000_003 + step) * 101 + epoch)
            order = torch.randperm(batch.episodes, generator=generator)
            for chosen in order.chunk(self.stage.minibatches):
                rows = torch.isin(batch.episode_B, chosen).nonzero().flatten()
                if len(rows):
                    part = batch.select(rows)
                    yield part, advantages_BL[rows, : part.tokens_BL.shape[1]]

    def _teaches(self, batch: TokenBatch, advantages_BL: Tensor) -> bool:
        """Whether the policy has a gradient: from an advantage, or from a term that asks for none."""
        counts_BL = self.loss.weights_BL(batch) > 0
        terms = not self.loss.skips_zero or any(term.coefficient for term in self.regularizers)
        return bool((counts_BL if terms else counts_BL & (advantages_BL != 0)).any())

    def _accumulate(self, batch: TokenBatch, advantages_BL: Tensor, *, policy: bool) -> None:
        """Gradients of one minibatch, of the critic alone without `policy`; micro-batches are
        partial sums of it.
        """
        weights_BL = self.loss.weights_BL(batch)
        value_weights_BL = (
            value_weights(batch.signals["critic_targets_BL"]) if self.critic is not None else None
        )
        # A critic on the policy's own layers trains them too.
        shared = self.critic is not None and self.critic.backbone is None and not self._warming
        totals: dict[str, float] = {}
        errors: dict[str, float] = {}
        used_B = self._used_B(batch, advantages_BL)
        tokens = int(batch.mask_BL[used_B].sum())
        used = used_B.nonzero().flatten()
        for chosen in batch.select(used).split(self.stage.token_budget):
            rows = used[chosen]
            micro = batch.select(rows)
            width = micro.tokens_BL.shape[1]
            with torch.set_grad_enabled(policy or shared):
                loss, scores = self._micro_loss(
                    micro, advantages_BL[rows, :width], weights_BL[rows, :width], totals
                )
            if not policy:
                loss = loss.detach()
            if value_weights_BL is not None:
                loss = loss + self._critic_loss(
                    micro, scores.hidden_BLD, value_weights_BL[rows, :width], totals, errors
                )
            if loss.requires_grad:
                loss.backward()
        if value_weights_BL is not None:
            assert batch.values_BL is not None
            self._note(
                "explained_variance",
                explained_variance(batch.values_BL, batch.signals["critic_targets_BL"]),
            )
            self._note("value/error", math.sqrt(errors["square"]))
            self._note("value/clip_fraction", errors["clipped"])
        for name, total in totals.items():
            self._note(name, total if name.startswith("loss/") else total / max(tokens, 1))

    def _used_B(self, batch: TokenBatch, advantages_BL: Tensor) -> Tensor:
        """bool [B]: sequences that can have a gradient, of which the metrics speak; all of them if
        none can.
        """
        sampled_B = batch.mask_BL.any(1)
        used_B = ((advantages_BL != 0) & batch.mask_BL).any(1)
        if not self.loss.skips_zero or self.critic is not None or self.regularizers:
            used_B = sampled_B
        self._note("sequences/used", float(used_B.double().mean()))
        return used_B if bool(used_B.any()) else sampled_B

    def _micro_loss(
        self, micro: TokenBatch, advantages_BL: Tensor, weights_BL: Tensor, totals: dict[str, float]
    ) -> tuple[Tensor, Scores]:
        """(loss, what the forward pass knows) of a micro-batch."""
        mask_BL = micro.mask_BL
        entropy_grad = any(Need.ENTROPY in term.needs() for term in self.regularizers)
        with autocast(self.stage.bf16):
            scores = score(
                self.model,
                micro.tokens_BL,
                mask_BL,
                temperature=micro.temperature,
                entropy_grad=entropy_grad,
            )
        if not self._moved and micro.old_logprobs_BL is not None:
            # The same numbers up to rounding, which in bfloat16 depends on what else is in the
            # micro-batch.
            micro = replace(micro, old_logprobs_BL=scores.logprobs_BL.detach())
        loss = torch.zeros(())
        outputs = [
            ("policy", 1.0, policy_loss(self.loss, scores.logprobs_BL, micro, advantages_BL))
        ]
        outputs += [
            (
                term.name,
                term.coefficient,
                regularizing(term, scores.logprobs_BL, micro, scores.entropy_BL),
            )
            for term in self.regularizers
        ]
        for name, coefficient, output in outputs:
            part = (torch.where(mask_BL, output.loss_BL, 0.0) * weights_BL).sum()
            _add(totals, f"loss/{name}", float(part.detach()))
            for metric, values_BL in output.metrics.items():
                _add(totals, metric, float(values_BL[mask_BL].detach().double().sum()))
            loss = loss + coefficient * part
        if not entropy_grad:  # else the regularizer reported it
            _add(totals, "entropy", float(scores.entropy_BL[mask_BL].detach().double().sum()))
        if not self._moved:
            gap_N = (scores.logprobs_BL.detach() - micro.logprobs_BL)[mask_BL].abs().double()
            _add(totals, "engine_gap", float(gap_N.sum()))
            if len(gap_N):
                self._note("engine_gap/max", float(gap_N.max()))
        return loss, scores

    def _critic_loss(
        self,
        micro: TokenBatch,
        hidden_BLD: Tensor,
        weights_BL: Tensor,
        totals: dict[str, float],
        errors: dict[str, float],
    ) -> Tensor:
        assert self.critic is not None
        assert micro.values_BL is not None
        config = self.critic.config
        if config.backbone == "separate":
            with autocast(self.stage.bf16):
                hidden_BLD = self.critic.hidden(self.model, micro.tokens_BL)
        values_BL = self.critic.values(hidden_BLD)
        loss, metrics = value_loss(
            values_BL, micro.values_BL, micro.signals["critic_targets_BL"], config.clip, weights_BL
        )
        _add(totals, "loss/value", float(loss.detach()))
        for name, value in metrics.items():
            _add(errors, name, value)
        return config.coefficient * loss

    def _note(self, name: str, value: float) -> None:
        self.metrics.setdefault(name, []).append(value if math.isfinite(value) else float("nan"))


def _add(totals: dict[str, float], name: str, value: float) -> None:
    totals[name] = totals.get(name, 0.0) + value
