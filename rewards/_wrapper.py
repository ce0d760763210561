"""Wrapper: a reward made of other rewards."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import PrivateAttr

from ..foundation.plugins import Need
from .base import REWARDS, TurnReward

TIE = 1e-9
"""Sums of floats that should be equal differ by less."""


class Wrapper(TurnReward):
    """Base of rewards made of others: it needs what they need and keeps their state."""

    _inner: list[TurnReward] = PrivateAttr(default_factory=list)

    @abstractmethod
    def configs(self) -> Sequence[Mapping[str, Any]]:
        """List the configurations of the rewards inside."""

    def model_post_init(self, context: Any) -> None:
        """Build the rewards inside."""
        self._inner.extend(REWARDS.build(config) for config in self.configs())

    def needs(self) -> frozenset[Need]:
        """List what this reward and the rewards inside it need to have computed."""
        return self.requires.union(*(reward.needs() for reward in self._inner))

    @property
    def failures(self) -> Counter[str]:
        """Count the numbers that the rewards inside could not measure, by reason."""
        return sum((reward.failures for reward in self._inner), Counter())

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the rewards inside, in their order."""
        return {"inner": [reward.state_dict() for reward in self._inner]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states of the rewards inside."""
        for reward, saved in zip(self._inner, state["inner"], strict=True):
            reward.load_state_dict(saved)
