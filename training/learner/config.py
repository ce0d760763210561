"""LearnerConfig: how a batch of advantages changes the weights."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ...agents.models.config import Bf16
from ...foundation.plugins import Plugged
from ..losses.base import LOSSES, PolicyLoss
from ..regularizers.base import Regularizer
from .critic import CriticConfig
from .optim import OptimConfig
from .reference import ReferenceConfig


class LearnerConfig(BaseModel):
    """The settings of a `Learner`; an rl stage has them among its own keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    steps: int = Field(
        100, ge=1, description="number of steps: play a batch of episodes, then learn from it"
    )
    loss: Plugged[PolicyLoss] = Field(
        default_factory=lambda: LOSSES.build({"name": "ppo_clip"}),
        description="policy loss, by name and fields",
    )
    regularizers: list[Plugged[Regularizer]] = Field(
        [],
        description="terms that are added to the loss",
    )
    reference: ReferenceConfig = Field(
        default_factory=ReferenceConfig,
        description="policy that kl, or whatever else needs a reference, compares with",
    )
    critic: CriticConfig = Field(
        default_factory=CriticConfig,
        description="the critic, which exists only if the credit requires values",
    )
    updates: int = Field(1, ge=1, description="passes over the episodes of a step")
    minibatches: int = Field(1, ge=1, description="optimiser steps per pass")
    optim: OptimConfig = Field(default_factory=OptimConfig, description="optimiser of this stage")
    average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay per step of a running mean of the weights, which is evaluated and saved",
    )
    token_budget: int = Field(
        4096, ge=1, description="tokens of a micro-batch, padding included, at most"
    )
    rows_multiple_of: int = Field(
        1,
        ge=1,
        description=(
            "sequences of a batch are a multiple of this; the rest is dropped at random after"
            " credit"
        ),
    )
    bf16: Bf16 = Field(
        "auto",
        description=(
            "compute updates in bfloat16, over float32 weights; auto is on GPUs that have it"
        ),
    )

    @model_validator(mode="after")
    def _regularizers_differ(self) -> Self:
        names = [term.name for term in self.regularizers]
        if len(set(names)) != len(names):
            raise ValueError("a regularizer is listed twice")
        return self
