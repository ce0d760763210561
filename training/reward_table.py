"""RewardTable: every reward of a batch by name, per turn, weighed and added up here alone::

    table = await reward_all(rewards, groups, agent, faults)  # also written into the turns
    table.total_E  # returns: what filters and credits compare

A reward that could not be measured is NaN in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..agents.agent import LanguageAgent
from ..agents.episode import Group, episodes_of
from ..envs.faults import Faults
from ..foundation.aio import await_all
from ..rewards.base import TurnReward, pay


@dataclass(frozen=True, slots=True)
class RewardTable:
    """Named rewards of some episodes, unweighted, beside their weights."""

    names: tuple[str, ...]
    """The axis K."""
    weights_K: Tensor
    """float64."""
    values_KET: Tensor
    """float64: NaN where it could not be measured, 0 where there is no turn."""
    turns_E: Tensor
    """int64: number of turns."""

    @classmethod
    def of(
        cls,
        groups: Sequence[Group],
        weights: Mapping[str, float],
        device: torch.device | str = "cpu",
    ) -> RewardTable:
        """Read the rewards that stand in the turns of these groups.

        Args:
            weights: name -> weight, of all rewards to read.
        """
        episodes = episodes_of(groups)
        width = max((len(episode.turns) for episode in episodes), default=0)
        rows = [
            [turn.rewards[name] for turn in episode.turns] + [0.0] * (width - len(episode.turns))
            for name in weights
            for episode in episodes
        ]
        values_KET = torch.tensor(rows, dtype=torch.float64, device=device)
        return cls(
            tuple(weights),
            torch.tensor(list(weights.values()), dtype=torch.float64, device=device),
            values_KET.view(len(weights), len(episodes), width),
            torch.tensor([len(e.turns) for e in episodes], dtype=torch.long, device=device),
        )

    def with_reward(self, name: str, values_ET: Tensor, weight: float) -> RewardTable:
        """Return this table with one more reward."""
        return replace(
            self,
            names=(*self.names, name),
            weights_K=torch.cat([self.weights_K, self.weights_K.new_tensor([weight])]),
            values_KET=torch.cat([self.values_KET, values_ET.to(self.values_KET)[None]]),
        )

    def without(self, name: str) -> RewardTable:
        """Return this table with 0 in the place of one reward."""
        values_KET = self.values_KET.clone()
        values_KET[self.names.index(name)] = 0.0
        return replace(self, values_KET=values_KET)

    @property
    def mask_ET(self) -> Tensor:
        """Tell which turns exist, bool."""
        turn_T = torch.arange(self.values_KET.shape[2], device=self.turns_E.device)
        return turn_T[None, :] < self.turns_E[:, None]

    @property
    def total_ET(self) -> Tensor:
        """Compute the weighted sum of all rewards of each turn, 0 where there is no turn."""
        total_ET = torch.einsum("k,ket->et", self.weights_K, self.values_KET)
        return torch.where(self.mask_ET, total_ET, 0.0)

    @property
    def total_E(self) -> Tensor:
        """Compute the undiscounted weighted return of each episode."""
        return self.total_ET.sum(1)

    @property
    def sums_KE(self) -> Tensor:
        """Add up each reward over each episode, unweighted."""
        return torch.where(self.mask_ET, self.values_KET, 0.0).sum(2)

    @property
    def unmeasured_E(self) -> list[str | None]:
        """Name the first reward of each episode that could not be measured; None if all were."""
        first: list[str | None] = [None] * self.values_KET.shape[1]
        for e, _, k in reversed(self.values_KET.isnan().permute(1, 2, 0).nonzero().tolist()):
            first[e] = self.names[k]
        return first


async def reward_all(
    rewards: Sequence[TurnReward],
    groups: Sequence[Group],
    agent: LanguageAgent | None,
    faults: Faults,
) -> RewardTable:
    """Ask every reward about every group, and write what it says into the turns.

    Args:
        agent: that played, for rewards that score with it.
        faults: where rewards that raise, or could not be measured, are told.
    """
    for reward in rewards:
        # All at once, so that an engine can score the episodes of the whole batch together.
        rows = await await_all(pay(reward, group, agent, faults) for group in groups)
        for group, values in zip(groups, rows, strict=True):
            for episode, row in zip(group, values, strict=True):
                for turn, value in zip(episode.turns, row, strict=True):
                    turn.rewards[reward.name] = value
    return RewardTable.of(groups, {reward.name: reward.weight for reward in rewards})


def measured(groups: Sequence[Group], table: RewardTable) -> tuple[list[Group], Counter[str]]:
    """Leave out episodes of which some reward could not be measured; count them by reward."""
    missing = iter(table.unmeasured_E)
    lost: Counter[str] = Counter()
    kept = []
    for group in groups:
        names = [next(missing) for _ in group]
        lost.update(name for name in names if name is not None)
        episodes = [episode for episode, name in zip(group, names, strict=True) if name is None]
        kept.append(replace(group, episodes=episodes))
    return kept, lost
