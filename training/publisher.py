"""Publisher: brings the learner's weights to the engine that plays.

Every push to an engine that computes with weights of its own is followed by a probe of parity
(`training/parity.py`), before anything is played. An engine that shares the trainer's module needs
none: the first pass of the next update compares the log-probabilities that it sampled with, with
those of the weights that were pushed, as the metrics `engine_gap` and `engine_gap/max`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..agents.engines.base import Engine
from .parity import Parity, check_parity


@dataclass(slots=True)
class Publisher:
    """The way of weights to an engine."""

    engine: Engine
    model: nn.Module
    """The learner's, whose weights are pushed."""
    parity: Parity | None = None
    """What the last probe measured; None before there was one."""

    async def push(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Give the engine these weights, and wait until it plays with them.

        Args:
            weights: those that `model` has.
            version: steps of learning that are in them; every response says it of the weights that
                sampled it.

        Raises:
            RunFailed: it does not play with them, with the figures.
        """
        await self.engine.push(weights, version)
        if not self.engine.capabilities.shares_module:
            self.parity = await check_parity(self.engine, self.model, version)
