"""Credit ``gae``: generalised advantage estimation along an episode's sampled tokens, or along its
turns.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ...agents.episode import StopReason
from ...foundation.plugins import Need
from ..batch import TokenBatch
from ..reward_table import RewardTable
from ._stats import Steps, returns_to_go, whiten
from .base import Advantages, Credit


class Gae(Credit):
    """GAE with a critic, per token [B, L]. A step is a sampled token, or a whole turn (`over`).

    ``delta_n = r_n + gamma * V_{n+1} - V_n`` and ``A_n = delta_n + gamma * lam * A_{n+1}``, where n
    + 1 is the next step of the *episode*: it may lie in the next turn or the next sequence;
    observation tokens are skipped and cost no discount. After the last step V is 0 if the episode
    is over and ``bootstrap_E`` if it was cut short (`limit`).

    - ``token``: a turn's reward sits on its last sampled token.
    - ``turn``: V is the value at the turn's first sampled token; A is the same on all tokens of the
      turn.

    The critic's targets [B, L] are ``A_n + V_n`` before whitening at every sampled token
    (``token``) or at the first one of each turn (``turn``), NaN elsewhere.
    `whiten` normalises as ``(A - mean) / sqrt(var + 1e-8)`` with the unbiased variance, over
    sampled tokens (``token``) or with one value per turn (``turn``).

    The turn limit of the recipe is part of the task that is measured, so it ends an episode like
    the world does: a value beyond it would pay for stalling until then instead of risking a loss. A
    curriculum's shorter limit is no part of the task: what it cuts always bootstraps. With `limit`
    ``bootstrap`` the recipe's limit does so too, for tasks that in truth go on. The context limit
    ends an episode in any case.

    Edge cases: turns with reward 0 are turns; values are read at sampled tokens only, so NaN
    elsewhere is harmless; the reward of a turn without tokens goes to the turn before it; a single
    step whitens to 0.

    Raises:
        ValueError: the batch has no values, or no bootstrap values for an episode that needs one.

    Paper: "High-Dimensional Continuous Control Using Generalized Advantage Estimation" (arXiv
    1506.02438). Source: the code of volcengine/verl and of pearls-lab/meow-tea-taro (``token``).
    Inspired by "RAGEN" (arXiv 2504.20073): written from general knowledge, not verified against the
    authors' code (``turn``).
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.VALUES})
    name: Literal["gae"] = "gae"
    over: Literal["token", "turn"] = Field(
        "token", description="what one step is: a token or a turn"
    )
    gamma: float = Field(1.0, ge=0, le=1, description="discount per step")
    lam: float = Field(
        0.95,
        ge=0,
        le=1,
        description="lambda of the traces: 0 is one-step estimates, 1 is returns minus values",
    )
    limit: Literal["end", "bootstrap"] = Field(
        "end",
        description=(
            "what the recipe's turn limit is: an end of the task, or a cut that hides its future"
        ),
    )
    whiten: bool = Field(True, description="normalise advantages over the steps of the batch")

    def bootstraps(self) -> frozenset[StopReason]:
        """Name a curriculum's shorter limit, and the recipe's own limit if `limit` says so."""
        own = {StopReason.TURN_LIMIT} if self.limit == "bootstrap" else set()
        return frozenset({StopReason.CURRICULUM_LIMIT} | own)

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        """Compute advantages [B, L], or [E, T] over turns; float64, 0 where nothing was sampled."""
        if batch.values_BL is None:
            raise ValueError("gae needs values_BL")
        steps = Steps.tokens(batch) if self.over == "token" else Steps.turns(batch)
        value_S = batch.values_BL[steps.row_S, steps.column_S].double()
        after_S = self._next(value_S, steps)
        delta_S = steps.rewards_S(rewards.total_ET) + self.gamma * after_S - value_S
        advantage_S = steps.flat(returns_to_go(steps.grid(delta_S), self.gamma * self.lam))
        targets_BL = steps.scatter(advantage_S + value_S, float("nan"))
        if self.whiten:
            advantage_S = whiten(advantage_S)
        if self.over == "token":
            return Advantages(steps.scatter(advantage_S), "token", targets_BL)
        advantage_ET = torch.zeros_like(rewards.total_ET)
        advantage_ET[steps.episode_S, steps.turn_S] = advantage_S
        return Advantages(advantage_ET, "turn", targets_BL)

    def _next(self, value_S: Tensor, steps: Steps) -> Tensor:
        """Look up the value after each step: the next step's, or what an episode ends with.

        It ends with 0, or with the bootstrap value where it was cut short.
        """
        batch = steps.batch
        open_E = batch.stopped_E(self.bootstraps())
        bootstrap_E = value_S.new_zeros(batch.episodes)
        if bool(open_E.any()):
            if batch.bootstrap_E is None:
                raise ValueError("gae needs bootstrap_E for episodes that were cut short")
            bootstrap_E = torch.where(open_E, batch.bootstrap_E.double(), 0.0)
        last_S = torch.ones_like(value_S, dtype=torch.bool)
        last_S[:-1] = steps.episode_S.diff() != 0
        return torch.where(last_S, bootstrap_E[steps.episode_S], value_S.roll(-1))
