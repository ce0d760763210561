"""WeightAverage: a running mean of the weights, which is steadier than any of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of the trainable parameters, ``m <- decay * m + (1 - decay) * w``
    after each step.

    The steps of a policy gradient jump about a slowly moving policy; their mean is closer to it,
    most of all in the sampled play of a small model. Training goes on from the weights themselves.

    Args:
        model: whose weights are averaged, starting from those it has.
        decay: 0 keeps the last weights.

    Source: "Acceleration of Stochastic Approximation by Averaging" (Polyak and Juditsky, 1992).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._means = [parameter.detach().clone() for parameter in self._weights]

    def update(self) -> None:
        """Take in the model's weights as they are now."""
        with torch.no_grad():
            for mean, weight in zip(self._means, self._weights, strict=True):
                mean.lerp_(weight, 1.0 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the mean as its weights inside the block, and its own again after it."""
        own = [weight.detach().clone() for weight in self._weights]
        self._put(self._means)
        try:
            yield
        finally:
            self._put(own)

    def state_dict(self) -> list[Tensor]:
        """Return the means, in the order of the model's trainable parameters."""
        return self._means

    def load_state_dict(self, means: list[Tensor]) -> None:
        """Go on from what `state_dict` returned."""
        for mean, saved in zip(self._means, means, strict=True):
            mean.copy_(saved)

    def _put(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for weight, value in zip(self._weights, values, strict=True):
                weight.copy_(value)
