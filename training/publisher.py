"""Publisher: brings the learner's weights to the engine that plays.

Every push is followed by a probe of parity, in the next update: its first pass compares the
log-probabilities that the engine sampled with, with those of the weights that were pushed. The
metrics `engine_gap` and `engine_gap/max` are the mean and the largest difference, in nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..agents.engines.base import Engine


@dataclass(frozen=True, slots=True)
class Publisher:
    """The way of weights to an engine."""

    engine: Engine

    async def push(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Give the engine these weights, and wait until it plays with them.

        Args:
            version: steps of learning that are in them; every response says it of the weights that
                sampled it.
        """
        await self.engine.push(weights, version)
