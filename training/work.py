"""Work: a batch, and what an update makes smaller on it::

    learner.update([learner.work(batch, advantages), Work("sft", other, ones_BL, [Nll()])])

The first work of an update is the step's own. Further ones add their gradient to its optimiser
steps, or take a step of their own after them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .batch import TokenBatch
from .losses.base import PolicyLoss
from .objective import Objective


@dataclass(frozen=True, slots=True)
class Work:
    """A batch with its advantages and the terms of the sum that is minimised on it.

    A policy loss among the objectives owns how tokens add up and the importance weights, for all of
    them; without one it is the mean over sampled tokens. What the objectives need of the batch
    (`Need`) and is not there, the learner computes before its first step.
    """

    name: str
    """Its metrics begin with it, unless it is the first work of an update."""
    batch: TokenBatch
    advantages_BL: Tensor
    """One number per token of the batch; zeros or ones where no objective reads them."""
    objectives: Sequence[Objective]
    """Terms that are added up, at most one policy loss among them."""
    scale: float = 1.0
    """Factor on its gradient beside that of the first work."""
    own_step: bool = False
    """It takes one optimiser step of its own, on the whole batch, after those of the others."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What is told of it beside what the learner measures."""

    def __post_init__(self) -> None:
        """Raise ValueError for objectives that cannot be added up.

        Or for advantages of another shape.
        """
        names = [term.name for term in self.objectives]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"work '{self.name}' needs objectives of different names, not {names}")
        if sum(isinstance(term, PolicyLoss) for term in self.objectives) > 1:
            raise ValueError(
                f"work '{self.name}' has two policy losses, which may add up tokens differently:"
                " make two works of it"
            )
        if self.advantages_BL.shape != self.batch.tokens_BL.shape:
            raise ValueError(
                f"work '{self.name}' has advantages {list(self.advantages_BL.shape)} for a batch"
                f" {list(self.batch.tokens_BL.shape)}"
            )
