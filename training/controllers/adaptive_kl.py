"""Controller ``adaptive_kl``: a KL penalty whose coefficient keeps the policy at a distance."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from ..view import StepView
from .base import Controller, Steerable

LEAST, MOST = 1e-6, 1e6
"""Bounds of the factor, so that it can come back from where it has gone."""


class AdaptiveKl(Controller):
    """Multiplies the coefficient of the regularizer ``kl`` until the policy is as far from the
    reference as `target`.

    After each update ``factor <- factor * (1 + clip(KL / target - 1, -0.2, 0.2) * min(n / horizon,
    1))``: KL is the mean estimate per sampled token over the update (metric ``kl``), n the number
    of tokens that were learnt from. The metrics have the factor as ``factor/kl``.

    With a KL of twice the target and n a tenth of the horizon, a coefficient of 0.01 becomes
    0.0102.

    Edge cases: the factor stays between 1e-6 and 1e6, so the coefficient stays positive; a step
    without a finite ``kl`` leaves it alone; it acts on the regularizer as a loss and as a reward
    alike.

    Paper: "Fine-Tuning Language Models from Human Preferences" (arXiv 1909.08593), where n and the
    horizon count episodes. Source: standard in the field; counting tokens, and the bounds, are
    ours.
    """

    name: Literal["adaptive_kl"] = "adaptive_kl"
    target: float = Field(
        0.01, gt=0, description="KL to the reference per sampled token, in nats, that is aimed at"
    )
    horizon: int = Field(
        10_000,
        ge=1,
        description="tokens after which a coefficient that is too small or too large is up to a"
        " fifth another",
    )

    def steers(self) -> frozenset[str]:
        """Name the regularizer ``kl``."""
        return frozenset({"kl"})

    def after_update(self, view: StepView, learner: Steerable) -> None:
        """Set the factor of ``kl`` by the distance that the update measured."""
        measured = view.metrics.get("kl", math.nan)
        if not math.isfinite(measured):
            return
        error = min(max(measured / self.target - 1.0, -0.2), 0.2)
        share = min(int(view.batch.mask_BL.sum()) / self.horizon, 1.0)
        factor = learner.factors["kl"] * (1.0 + error * share)
        learner.factors["kl"] = min(max(factor, LEAST), MOST)
