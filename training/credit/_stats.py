"""Statistics over episodes, and the sampled tokens of every episode as one dense grid.

Two axes beside the glossary of `turnrl.training.batch`: S sampled tokens of the whole batch (or the
first one of each turn), N sampled tokens of one episode.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import TokenBatch

ZERO = 1e-8
"""Deviations up to this size are float dust: they count as no variance and become exactly 0."""


def group_stats(values_E: Tensor, group_E: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute mean, deviation and size of each episode's group, each [E].

    The deviation is unbiased, and 0 for groups of one.
    """
    index_E, count_G = group_E.unique(return_inverse=True, return_counts=True)[1:]
    mean_G = group_sum(values_E, index_E, len(count_G)) / count_G
    squares_G = group_sum((values_E - mean_G[index_E]) ** 2, index_E, len(count_G))
    std_G = (squares_G / (count_G - 1).clamp(min=1)).sqrt()
    return mean_G[index_E], std_G[index_E], count_G[index_E]


def group_sum(values_E: Tensor, index_E: Tensor, groups: int) -> Tensor:
    """Add up the episodes of each group: [E, ...] -> [groups, ...]."""
    return values_E.new_zeros(groups, *values_E.shape[1:]).index_add_(0, index_E, values_E)


def centre_E(values_E: Tensor, group_E: Tensor) -> Tensor:
    """Subtract the mean of its group from every value.

    Exactly 0 in groups without variance and in groups of one.
    """
    mean_E, std_E, _ = group_stats(values_E, group_E)
    return torch.where(std_E > ZERO, values_E - mean_E, 0.0)


def zscore_E(values_E: Tensor, group_E: Tensor, eps: float) -> Tensor:
    """Compute ``(x - mean) / (std + eps)`` of every value within its group.

    Exactly 0 in groups without variance and in groups of one.
    """
    std_E = group_stats(values_E, group_E)[1]
    centred_E = centre_E(values_E, group_E)
    return centred_E / (std_E + eps).where(centred_E != 0, 1.0)


def whiten(values_S: Tensor) -> Tensor:
    """Compute ``(x - mean) / sqrt(var + 1e-8)`` of every value, with the unbiased variance.

    Exactly 0 without variance.
    """
    if len(values_S) < 2 or float(values_S.std()) <= ZERO:
        return torch.zeros_like(values_S)
    return (values_S - values_S.mean()) / (values_S.var() + 1e-8).sqrt()


def returns_to_go(rewards_EN: Tensor, decay: float) -> Tensor:
    """Compute ``G_n = r_n + decay * G_{n+1}`` along the last axis, 0 after its end."""
    out_EN, running_E = torch.zeros_like(rewards_EN), rewards_EN.new_zeros(len(rewards_EN))
    for n in reversed(range(rewards_EN.shape[1])):
        running_E = rewards_EN[:, n] + decay * running_E
        out_EN[:, n] = running_E
    return out_EN


@dataclass(slots=True)
class Steps:
    """Sampled tokens in the order they were sampled, episode by episode, across the sequences of an
    episode.
    """

    batch: TokenBatch
    row_S: Tensor
    column_S: Tensor
    episode_S: Tensor
    turn_S: Tensor
    step_S: Tensor
    """Position within the episode, from 0."""

    @classmethod
    def tokens(cls, batch: TokenBatch) -> Steps:
        """List every sampled token of a batch."""
        row_S, column_S = batch.mask_BL.nonzero(as_tuple=True)
        order_S = torch.argsort(batch.episode_B[row_S], stable=True)
        return cls._of(batch, row_S[order_S], column_S[order_S])

    @classmethod
    def turns(cls, batch: TokenBatch) -> Steps:
        """Return the first sampled token of every turn that has one."""
        every = cls.tokens(batch)
        first_S = every.boundaries()[:-1]
        return cls._of(batch, every.row_S[first_S], every.column_S[first_S])

    @classmethod
    def _of(cls, batch: TokenBatch, row_S: Tensor, column_S: Tensor) -> Steps:
        episode_S = batch.episode_B[row_S]
        count_E = torch.bincount(episode_S, minlength=batch.episodes)
        step_S = (
            torch.arange(len(row_S), device=row_S.device) - (count_E.cumsum(0) - count_E)[episode_S]
        )
        return cls(batch, row_S, column_S, episode_S, batch.turn_BL[row_S, column_S], step_S)

    def boundaries(self) -> Tensor:
        """Tell where turns begin, as bool [S + 1]; shifted by one, where they end."""
        edge = self.turn_S.new_ones(1, dtype=torch.bool)
        changed = (self.turn_S.diff() != 0) | (self.episode_S.diff() != 0)
        return torch.cat([edge, changed, edge]) if len(self.turn_S) else edge

    def rewards_S(self, rewards_ET: Tensor) -> Tensor:
        """Put each turn's reward on its last step, and 0 on the others.

        The reward of a turn without tokens goes to the last turn before it that has some: nothing
        else can have caused it.
        """
        has_ET = torch.zeros_like(rewards_ET, dtype=torch.bool)
        has_ET[self.episode_S, self.turn_S] = True
        turn_ET = torch.where(has_ET, self.batch.turn_T, -1).cummax(1).values
        landed_ET = torch.zeros_like(rewards_ET).scatter_add_(
            1, turn_ET.clamp(min=0), torch.where(turn_ET >= 0, rewards_ET, 0.0)
        )
        return torch.where(self.boundaries()[1:], landed_ET[self.episode_S, self.turn_S], 0.0)

    def grid(self, values_S: Tensor) -> Tensor:
        """Put a number per step on a grid by episodes, [S] -> [E, N]; 0 after an episode's end."""
        width = int(self.step_S.max()) + 1 if len(self.step_S) else 0
        out_EN = values_S.new_zeros(self.batch.episodes, width)
        out_EN[self.episode_S, self.step_S] = values_S
        return out_EN

    def flat(self, values_EN: Tensor) -> Tensor:
        """Read a number per step from a grid by episodes, [E, N] -> [S]."""
        return values_EN[self.episode_S, self.step_S]

    def scatter(self, values_S: Tensor, fill: float = 0.0) -> Tensor:
        """Put a number per step at its token, [S] -> [B, L]; `fill` elsewhere."""
        out_BL = torch.full_like(self.batch.turn_BL, fill, dtype=values_S.dtype)
        out_BL[self.row_S, self.column_S] = values_S
        return out_BL
