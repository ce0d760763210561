"""Gradients of one minibatch: token-budget micro-batches, exact sums, metrics of trouble.

An objective of whole episodes or groups costs a first pass over the minibatch without gradient:
``coefficients = d value / d scores``. The second pass is as for any other, in micro-batches that
add ``(coefficients * scores).sum()``, whose gradient is that of the value, however it was cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ...agents.models.forward import Probe, Scores, autocast, score, score_batch
from ...agents.models.head import at_least_float32
from ..batch import TokenBatch
from ..boundaries import batch_loss, token_loss
from ..losses.base import PolicyLoss
from ..objective import Objective
from .config import LearnerConfig
from .critic import Critic
from .value_loss import explained_variance, value_loss, value_weights


@dataclass(slots=True)
class Gradients:
    """The gradients of one batch, minibatch by minibatch, and what is measured beside them."""

    config: LearnerConfig
    model: nn.Module
    objectives: Sequence[Objective]
    """Terms of the sum, at most one policy loss among them."""
    critic: Critic | None = None
    warming: bool = False
    """Only the critic learns."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """On the coefficients of objectives, by name; 1 where there is none."""
    scale: float = 1.0
    """On the whole sum."""
    moved: bool = False
    """Whether the policy has taken a step on this batch, or another one sampled it."""
    metrics: dict[str, list[float]] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of log-probabilities, advantages and weights.

        It is float32, or float64 if the policy's is.
        """
        return at_least_float32(next(self.model.parameters()).detach()[:0]).dtype

    def accumulate(self, batch: TokenBatch, advantages_BL: Tensor) -> bool:
        """Add the gradients of one minibatch; returns whether there are any."""
        advantages_BL = advantages_BL.to(self.dtype)
        if self._loss is not None:
            signals, metrics = self._loss.prepare(batch)
            for name, value in metrics.items():
                self.note(name, value)
            batch = replace(batch, signals=batch.signals | signals)
        policy = not self.warming and self._teaches(batch, advantages_BL)
        self._accumulate(batch, advantages_BL, policy=policy)
        return policy or self.critic is not None

    def note(self, name: str, value: float) -> None:
        """Take in a number of this minibatch."""
        self.metrics.setdefault(name, []).append(value if math.isfinite(value) else float("nan"))

    def means(self) -> dict[str, float]:
        """Compute the means over minibatches of the numbers that were noted."""
        means = {name: sum(values) / len(values) for name, values in self.metrics.items()}
        if "engine_gap/max" in self.metrics:
            means["engine_gap/max"] = max(self.metrics["engine_gap/max"])
        return means

    @property
    def _loss(self) -> PolicyLoss | None:
        """Return the policy loss, which says how tokens add up; None if there is none."""
        return next((term for term in self.objectives if isinstance(term, PolicyLoss)), None)

    @property
    def _terms(self) -> list[tuple[str, Objective]]:
        """List the objectives by the name that their values are reported under."""
        return [
            ("policy" if isinstance(term, PolicyLoss) else term.name, term)
            for term in self.objectives
        ]

    def _weight(self, term: Objective) -> float:
        """Return what a term counts in the sum."""
        return term.coefficient * self.factors.get(term.name, 1.0) * self.scale

    def _weights_BL(self, batch: TokenBatch) -> Tensor:
        """Compute what each token counts in a term per token, [B, L]."""
        if self._loss is not None:
            return self._loss.weights_BL(batch, self.dtype)
        return (batch.mask_BL.double() / batch.mask_BL.sum().clamp(min=1)).to(self.dtype)

    def _probes(self) -> dict[str, Probe]:
        """Collect what the terms ask for of the logits."""
        return {name: probe for _, term in self._terms for name, probe in term.probes().items()}

    def _teaches(self, batch: TokenBatch, advantages_BL: Tensor) -> bool:
        """Tell whether the policy has a gradient: from an advantage, or a term without one."""
        counts_BL = self._weights_BL(batch) > 0
        for term in self.objectives:
            if not self._weight(term):
                continue
            skips = isinstance(term, PolicyLoss) and term.skips_zero
            if bool((counts_BL & (advantages_BL != 0) if skips else counts_BL).any()):
                return True
        return False

    def _accumulate(self, batch: TokenBatch, advantages_BL: Tensor, *, policy: bool) -> None:
        """Add the gradients of one minibatch; of the critic alone without `policy`.

        Micro-batches are partial sums of it.
        """
        weights_BL = self._weights_BL(batch)
        targets_BL = batch.signals.get("critic_targets_BL")
        value_weights_BL = None
        if self.critic is not None:
            assert targets_BL is not None, "a critic needs targets"
            value_weights_BL = value_weights(targets_BL)
        # A critic on the policy's own layers trains them too.
        shared = self.critic is not None and self.critic.backbone is None and not self.warming
        coefficients = self._coefficients(batch, advantages_BL)
        totals: dict[str, float] = {}
        errors: dict[str, float] = {}
        used_B = self._used_B(batch, advantages_BL)
        tokens = int(batch.mask_BL[used_B].sum())
        used = used_B.nonzero().flatten()
        for chosen in batch.select(used).split(self.config.token_budget):
            rows = used[chosen]
            micro = batch.select(rows)
            width = micro.tokens_BL.shape[1]
            with torch.set_grad_enabled(policy or shared):
                scores = self._score(micro)
                loss = self._micro_loss(
                    scores, micro, advantages_BL[rows, :width], weights_BL[rows, :width], totals
                )
                for name, coefficient_BL in coefficients.items():
                    loss = loss + (coefficient_BL[rows, :width] * scores.of[name]).sum()
            if not policy:
                loss = loss.detach()
            if value_weights_BL is not None:
                loss = loss + self._critic_loss(
                    micro, scores.hidden_BLD, value_weights_BL[rows, :width], totals, errors
                )
            if loss.requires_grad:
                loss.backward()
        if targets_BL is not None and self.critic is not None:
            assert batch.values_BL is not None
            self.note("explained_variance", explained_variance(batch.values_BL, targets_BL))
            self.note("value/error", math.sqrt(errors["square"]))
            self.note("value/clip_fraction", errors["clipped"])
        for name, total in totals.items():
            self.note(name, total if name.startswith("loss/") else total / max(tokens, 1))

    def _coefficients(self, batch: TokenBatch, advantages_BL: Tensor) -> Mapping[str, Tensor]:
        """Compute the gradient of all batch objectives with respect to each score, [B, L].

        None if there are no such objectives.
        """
        terms = [(name, term) for name, term in self._terms if term.granularity == "batch"]
        if not terms:
            return {}
        probes = self._probes()
        if not self.moved and not probes and "old" in batch.scores:
            found = batch.scores["old"]
        else:
            found = score_batch(
                self.model,
                batch.tokens_BL,
                batch.mask_BL,
                list(batch.split(self.config.token_budget)),
                temperature=batch.temperature,
                bf16=self.config.bf16,
                probes=probes,
            )
        leaves = {name: found.of[name].detach().requires_grad_() for name in ("logprobs", *probes)}
        scores, total = Scores(found.of | leaves), advantages_BL.new_zeros(())
        with torch.enable_grad():
            for name, term in terms:
                value, metrics = batch_loss(term, scores, batch, advantages_BL)
                total = total + self._weight(term) * value
                self.note(f"loss/{name}", float(value.detach()))
                for metric, number in metrics.items():
                    self.note(metric, number)
        if not total.requires_grad:
            return {}
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        return {n: g for n, g in zip(leaves, gradients, strict=True) if g is not None}

    def _used_B(self, batch: TokenBatch, advantages_BL: Tensor) -> Tensor:
        """Choose the sequences that can have a gradient, bool [B]; all of them if none can.

        The metrics speak of those.
        """
        sampled_B = batch.mask_BL.any(1)
        used_B = ((advantages_BL != 0) & batch.mask_BL).any(1)
        skips = self._loss is not None and self._loss.skips_zero and len(self.objectives) == 1
        if not skips or self.critic is not None:
            used_B = sampled_B
        self.note("sequences/used", float(used_B.double().mean()))
        return used_B if bool(used_B.any()) else sampled_B

    def _score(self, micro: TokenBatch) -> Scores:
        with autocast(self.config.bf16, micro.device):
            return score(
                self.model,
                micro.tokens_BL,
                micro.mask_BL,
                temperature=micro.temperature,
                probes=self._probes(),
                hidden=self.critic is not None and self.critic.backbone is None,
            )

    def _micro_loss(
        self,
        scores: Scores,
        micro: TokenBatch,
        advantages_BL: Tensor,
        weights_BL: Tensor,
        totals: dict[str, float],
    ) -> Tensor:
        """Add up the token objectives of a micro-batch."""
        mask_BL, logprobs_BL = micro.mask_BL, scores.logprobs_BL.detach()
        if not self.moved and "old" in micro.scores:
            # The same numbers up to rounding, which in bfloat16 depends on what else is in the
            # micro-batch.
            micro = micro.with_scores(old=scores.map(Tensor.detach))
        loss = weights_BL.new_zeros(())
        reported: set[str] = set()
        for name, term in self._terms:
            if term.granularity == "batch":
                continue
            output = token_loss(term, scores, micro, advantages_BL)
            part = (torch.where(mask_BL, output.loss_BL, 0.0) * weights_BL).sum()
            _add(totals, f"loss/{name}", float(part.detach()))
            for metric, values_BL in output.metrics.items():
                _add(totals, metric, float(values_BL[mask_BL].detach().double().sum()))
            reported |= output.metrics.keys()
            loss = loss + self._weight(term) * part
        if "entropy" not in reported:
            _add(totals, "entropy", float(scores.of["entropy"][mask_BL].detach().double().sum()))
        if not self.moved:
            gap_N = (logprobs_BL - micro.logprobs_of("engine"))[mask_BL].abs().double()
            _add(totals, "engine_gap", float(gap_N.sum()))
            if len(gap_N):
                self.note("engine_gap/max", float(gap_N.max()))
        return loss

    def _critic_loss(
        self,
        micro: TokenBatch,
        hidden_BLD: Tensor | None,
        weights_BL: Tensor,
        totals: dict[str, float],
        errors: dict[str, float],
    ) -> Tensor:
        assert self.critic is not None
        assert micro.values_BL is not None
        config = self.critic.config
        if hidden_BLD is None:
            with autocast(self.config.bf16, micro.device):
                hidden_BLD = self.critic.hidden(self.model, micro.tokens_BL)
        values_BL = self.critic.values(hidden_BLD)
        targets_BL = micro.signals["critic_targets_BL"]
        loss, metrics = value_loss(values_BL, micro.values_BL, targets_BL, config.clip, weights_BL)
        _add(totals, "loss/value", float(loss.detach()))
        for name, value in metrics.items():
            _add(errors, name, value)
        return config.coefficient * loss


def _add(totals: dict[str, float], name: str, value: float) -> None:
    totals[name] = totals.get(name, 0.0) + value
