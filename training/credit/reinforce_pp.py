"""Credit ``reinforce_pp``: whitened returns-to-go of every sampled token."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from ..batch import TokenBatch
from ..reward_table import RewardTable
from ._stats import ZERO, Steps, centre_E, group_stats, returns_to_go, whiten
from .base import Advantages, Credit, Peers


class ReinforcePp(Credit):
    """REINFORCE++: returns-to-go per token, normalised over all sampled tokens of the batch [B, L].

    ``G_n = r_n + gamma * G_{n+1}`` over the sampled tokens of an episode, across its turns and
    sequences, with a turn's reward on its last sampled token; observation tokens are skipped and
    cost no discount. Then ``A_n = (G_n - mean) / sqrt(var + 1e-8)``, mean and unbiased variance
    over sampled tokens: long episodes weigh more, by definition of the method. With ``baseline:
    group`` every token of episode i starts from ``R_i - mean_g`` instead of G_n, and `gamma` is
    unused.

    Edge cases: equal returns-to-go give exactly 0. With ``baseline: group``, groups without
    variance and groups of one give exactly 0 and leave the statistics. The reward of a turn without
    tokens goes to the turn before it.

    Paper: "REINFORCE++" (arXiv 2501.03262). Source: the code of volcengine/verl.
    """

    name: Literal["reinforce_pp"] = "reinforce_pp"
    gamma: float = Field(1.0, ge=0, le=1, description="discount per sampled token")
    baseline: Literal["none", "group"] = Field(
        "none", description="'group' starts every token from the return less the group's mean"
    )
    whiten: bool = Field(
        True, description="normalise advantages over the sampled tokens of the batch"
    )

    def peers(self) -> Peers:
        """Name the other episodes that it compares with."""
        alone: Peers = "batch" if self.whiten else "nothing"
        return "group" if self.baseline == "group" else alone

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        """Compute returns-to-go, or centred returns, per token [B, L]; whitened if asked for.

        float64, 0 where nothing was sampled.
        """
        steps = Steps.tokens(batch)
        counted_S = torch.ones_like(steps.row_S, dtype=torch.bool)
        if self.baseline == "group":
            return_E = rewards.total_E
            value_S = centre_E(return_E, batch.group_E)[steps.episode_S]
            counted_S = group_stats(return_E, batch.group_E)[1][steps.episode_S] > ZERO
        else:
            reward_S = steps.rewards_S(rewards.total_ET)
            value_S = steps.flat(returns_to_go(steps.grid(reward_S), self.gamma))
        if self.whiten:
            value_S[counted_S] = whiten(value_S[counted_S])
        return Advantages(steps.scatter(value_S), "token")
