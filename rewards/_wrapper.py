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
    """Base of rewards made of others: it needs what they need, and remembers what they remember."""

    _inner: list[TurnReward] = PrivateAttr(default_factory=list)

    @abstractmethod
    def configs(self) -> Sequence[Mapping[str, Any]]:
        """Configurations of the other rewards."""

    def model_post_init(self, context: Any) -> None:
        """Build the other rewards."""
        self._inner.extend(REWARDS.build(config) for config in self.configs())

    def needs(self) -> frozenset[Need]:
        """What it requires itself, and what the others do."""
        return self.requires.union(*(reward.needs() for reward in self._inner))

    @property
    def failures(self) -> Counter[str]:
        """Those of the others."""
        return sum((reward.failures for reward in self._inner), Counter())

    def state_dict(self) -> dict[str, Any]:
        """The others', in order."""
        return {"inner": [reward.state_dict() for reward in self._inner]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The others'."""
        for reward, saved in zip(self._inner, state["inner"], strict=True):
            reward.load_state_dict(saved)
