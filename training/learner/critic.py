"""Critic: the value of the state before each sampled token, for estimators that require 'values'.

A value head sits on the policy's own backbone ('shared'; its gradient reaches the policy) or on a
copy ('separate'). A copy learns what the policy learns: of an adapted policy its adapters, while
the frozen weights exist once for both.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ...agents.models.config import Bf16
from ...agents.models.forward import autocast, decoder, hidden_states
from ..batch import TokenBatch


class CriticConfig(BaseModel):
    """The `critic` block of an rl stage; used only by a credit that requires values."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    backbone: Literal["separate", "shared"] = Field(
        "separate",
        description=(
            "network under the value head: a copy of the policy (with LoRA, of its adapters), or"
            " itself"
        ),
    )
    lr: float = Field(
        1e-3, gt=0, description="learning rate of the value head and of a separate backbone"
    )
    clip: float | None = Field(
        0.2, gt=0, description="largest change of a value per update; null for none"
    )
    coefficient: float = Field(
        0.5, gt=0, description="weight of the value loss beside the policy loss"
    )
    warmup_steps: int = Field(
        0, ge=0, description="steps at the start in which only the critic learns"
    )


class Critic(nn.Module):
    """Values from hidden states.

    Args:
        policy: its decoder is copied ('separate') or referred to ('shared').
        seed: of the head's initialisation.
    """

    def __init__(self, policy: nn.Module, config: CriticConfig) -> None:
        super().__init__()
        self.config = config
        width = int(policy.get_output_embeddings().weight.shape[1])  # type: ignore[operator]
        self.head = nn.Linear(width, 1, device=policy.get_output_embeddings().weight.device)  # type: ignore[operator]
        # Zero: the first values say nothing, instead of something random.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.backbone: nn.Module | None = None
        if config.backbone == "separate":
            source = decoder(policy)
            frozen = {
                id(parameter): parameter
                for parameter in source.parameters()
                if not parameter.requires_grad
            }
            self.backbone = _Backbone(copy.deepcopy(source, frozen))

    def hidden(self, policy: nn.Module, tokens_BL: Tensor) -> Tensor:
        """Compute the hidden states that the head reads, [B, L, D]."""
        return hidden_states(policy if self.backbone is None else self.backbone, tokens_BL)

    def values(self, hidden_BLD: Tensor) -> Tensor:
        """Compute values [B, L]: entry l is that before token l was emitted, entry 0 is 0."""
        values_BL: Tensor = self.head(hidden_BLD.float()).squeeze(-1)
        return torch.cat([torch.zeros_like(values_BL[:, :1]), values_BL[:, :-1]], dim=1)

    @torch.no_grad()
    def evaluate(
        self,
        policy: nn.Module,
        batch: TokenBatch,
        rows: list[Tensor],
        open_E: Tensor,
        *,
        bf16: Bf16,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute values [B, L] of a whole batch and bootstrap values [E]; None for none.

        Args:
            open_E: bool, episodes to bootstrap: the last position of their last row is the state
                after them.
        """
        values_BL = torch.zeros_like(batch.turn_BL, dtype=torch.float32)
        bootstrap_E = torch.zeros_like(batch.turns_E, dtype=torch.float32)
        last_row_E = torch.zeros_like(batch.turns_E)
        # Rows of an episode are in order.
        last_row_E[batch.episode_B] = torch.arange(len(batch.episode_B), device=batch.device)
        for index in rows:
            width = int(batch.lengths_B[index].max())
            with autocast(bf16, batch.device):
                hidden_BLD = self.hidden(policy, batch.tokens_BL[index, :width])
            values_BL[index, :width] = self.values(hidden_BLD)
            row_B = torch.arange(len(index), device=batch.device)
            last_BD = hidden_BLD[row_B, batch.lengths_B[index] - 1]
            after_B = self.head(last_BD.float()).squeeze(-1)
            episodes = batch.episode_B[index]
            closing = (last_row_E[episodes] == index) & open_E[episodes]
            bootstrap_E[episodes[closing]] = after_B[closing]
        return values_BL, bootstrap_E if bool(open_E.any()) else None


class _Backbone(nn.Module):
    """A decoder that answers `get_decoder` like a whole model."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def get_decoder(self) -> Any:
        return self.module
