"""StepView: one step of learning, as those see it who act beside the walk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ..agents.agent import LanguageAgent
from ..agents.episode import Group
from .batch import TokenBatch
from .credit.base import Advantages
from .reward_table import RewardTable


@dataclass(frozen=True, slots=True)
class StepView:
    """What was played in a step, what it was worth, and the policy. It is there to be read."""

    step: int
    """Number of the step in its stage, from 0."""
    seed: int
    """Of what is drawn at random in this step."""
    groups: Sequence[Group]
    """What is learnt from, without failed episodes and what filters dropped."""
    batch: TokenBatch
    """The same as tensors, with the costly fields that somebody needs."""
    rewards: RewardTable
    advantages: Advantages
    """Per token."""
    metrics: Mapping[str, float]
    """All that was measured so far; those of the update once it was made."""
    model: nn.Module
    """The policy, in evaluation mode."""
    initial: Mapping[str, Tensor]
    """The weights that are trained as they were when the stage began, by name; empty unless
    somebody needs 'initial_weights'.
    """
    agent: LanguageAgent
    """Who played; until the update its engine plays with the weights of the model."""

    def packed(self, groups: Sequence[Group]) -> TokenBatch:
        """Make a batch of other episodes of the same policy, beside that of the step."""
        batch = self.batch
        return TokenBatch.pack(
            groups,
            temperature=batch.temperature,
            version=batch.version,
            device=batch.device,
        )
