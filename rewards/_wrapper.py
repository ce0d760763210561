"""Wrapper: a reward made of other rewards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..agents.episode import Group
from ..foundation.plugins import Need
from .base import TurnReward

TIE = 1e-9
"""Sums of floats that should be equal differ by less."""


class Wrapper(TurnReward):
    """Base of rewards made of others: it needs what they need and keeps their state."""

    @property
    def inner(self) -> Sequence[TurnReward]:
        """List the rewards inside, those that stand in its fields."""
        values = (getattr(self, name) for name in type(self).model_fields)
        return [value for value in values if isinstance(value, TurnReward)]

    def needs(self) -> frozenset[Need]:
        """List what this reward and the rewards inside it need to have computed."""
        return self.requires.union(*(reward.needs() for reward in self.inner))

    @property
    def failures(self) -> Counter[str]:
        """Count the numbers that the rewards inside could not measure, by reason."""
        return sum((reward.failures for reward in self.inner), Counter())

    def update(self, groups: Sequence[Group]) -> Mapping[str, float]:
        """Let the rewards inside learn."""
        found: dict[str, float] = {}
        for reward in self.inner:
            found |= {f"{reward.name}/{key}": v for key, v in reward.update(groups).items()}
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the rewards inside, in their order."""
        return {"inner": [reward.state_dict() for reward in self.inner]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states of the rewards inside."""
        for reward, saved in zip(self.inner, state["inner"], strict=True):
            reward.load_state_dict(saved)
