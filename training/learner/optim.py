"""AdamW with warm-up and a constant, linear or cosine schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(BaseModel):
    """The `optim` block of a stage."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    lr: float = Field(1e-4, gt=0, description="peak learning rate")
    warmup_steps: int = Field(
        0, ge=0, description="updates in which the learning rate rises from 0, linearly"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="course of the learning rate after the warm-up"
    )
    final: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the peak rate at the end of a linear or cosine schedule",
    )
    weight_decay: float = Field(
        0.0, ge=0, description="decoupled weight decay (AdamW) of matrices; vectors have none"
    )
    betas: tuple[Decay, Decay] = Field(
        (0.9, 0.99), description="decay rates of AdamW's two moments"
    )
    max_grad_norm: float = Field(
        1.0, gt=0, description="norm that larger gradients are scaled down to"
    )

    def lr_at(self, step: int, total: int) -> float:
        """Compute the learning rate of update `step` (from 0) of `total`."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / (self.warmup_steps + 1)
        done = (step - self.warmup_steps) / max(total - self.warmup_steps, 1)
        share = {
            "constant": 1.0,
            "linear": 1.0 - done * (1.0 - self.final),
            "cosine": self.final
            + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0))),
        }[self.schedule]
        return self.lr * share


def make_optimizer(
    groups: Iterable[tuple[Iterable[nn.Parameter], float]], config: OptimConfig
) -> torch.optim.AdamW:
    """Make AdamW over groups of (parameters, learning rate relative to the schedule's).

    Vectors are never decayed.
    """
    entries = []
    for part, (parameters, scale) in enumerate(groups):
        trainable = [p for p in parameters if p.requires_grad]
        for matrices in (True, False):
            chosen = [p for p in trainable if (p.ndim >= 2) == matrices]
            if chosen:
                decay = config.weight_decay if matrices else 0.0
                entries.append(
                    {"params": chosen, "scale": scale, "weight_decay": decay, "part": part}
                )
    return torch.optim.AdamW(entries, lr=config.lr, betas=config.betas, fused=True)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over the moments of another process.

    Decay and the like stay those that the recipe says now.

    The rate is that of the last step: each step sets its own.
    """
    kept = ("params", "lr")
    said = [
        {key: value for key, value in group.items() if key not in kept}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, values in zip(optimizer.param_groups, said, strict=True):
        group.update(values)


def apply_step(optimizer: torch.optim.Optimizer, lr: float, max_grad_norm: float) -> list[float]:
    """Clip the gradients, take a step and clear them; return norms before clipping.

    One of each group given to `make_optimizer`. Each is clipped by itself: a critic's large
    gradients do not shrink the policy's. A non-finite one skips the step.
    """
    parts: dict[int, list[nn.Parameter]] = {}
    for group in optimizer.param_groups:
        parts.setdefault(group["part"], []).extend(group["params"])
        group["lr"] = lr * group["scale"]
    norms = [
        float(nn.utils.clip_grad_norm_(parameters, max_grad_norm)) for parameters in parts.values()
    ]
    if all(map(math.isfinite, norms)):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norms
