"""Reward ``gate``: a less important reward counts only where the more important ones are good."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..agents.agent import LanguageAgent
from ..agents.episode import Group
from ..foundation.plugins import Plugged
from ._wrapper import TIE, Wrapper
from .base import TurnReward, inner_sums, on_last_turn


class Level(BaseModel):
    """One reward of a gate: what it is worth, and when it opens what comes after it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    of: Plugged[TurnReward] = Field(
        description="the reward of this level; its own weight is ignored"
    )
    threshold: float | None = Field(
        None, description="smallest episode sum that opens what this level gates"
    )
    weight: float = Field(
        1.0, ge=0, description="what the level adds at its best; 0 for a pure gate"
    )
    low: float = Field(0.0, description="episode sum that is worth nothing")
    high: float = Field(1.0, description="episode sum that is worth the whole weight")
    levels: list[Level] = Field([], description="levels that this one gates, side by side")

    @model_validator(mode="after")
    def _bounds(self) -> Level:
        if not self.low < self.high:
            raise ValueError("low must be smaller than high")
        return self

    def share(self, total: float) -> float:
        """Return where an episode sum lies between low and high, in [0, 1]; NaN for NaN."""
        place = (total - self.low) / (self.high - self.low)
        return 0.0 if place < 0 else 1.0 if place > 1 else place

    def opens(self, total: float) -> bool:
        """Tell whether an episode sum reaches the threshold; NaN does not."""
        return self.threshold is not None and total >= self.threshold - TIE


class Gate(Wrapper):
    """Levels of rewards, each open only if the one before reached its threshold; on the last turn.

    ``R = sum_l open_l * weight_l * clip((S_l - low_l) / (high_l - low_l), 0, 1)``

    S_l is the sum over the episode of the level's reward. `levels` are ordered: the first is open,
    and each gates the next; ``open_l = open_k and S_k >= threshold_k`` for the level k that gates
    l. A level may hold `levels` of its own: it gates each of them, and they do not gate each other.
    The keys of a level are `of`, `threshold` (needed if it gates something), `weight` (1; at least
    0), `low` (0), `high` (1) and `levels`::

        levels:
          - {of: {name: format}, threshold: 0, weight: 0}
          - {of: {name: outcome}, threshold: 1}
          - {of: {name: step_cost}, low: -20, high: -5, weight: 0.2}

    A reward of penalties gates with `threshold` 0 (no penalty at all) and `weight` 0; `low` and
    `high` turn a cost into a share, above from 5 turns (all) to 20 (nothing). Open levels add
    between 0 and their weight, and below a threshold nothing that comes after has any influence.
    So, other levels being equal, an episode that misses a threshold is never paid more than one
    that reaches it, whatever comes after; always less if that threshold is the level's `high` and
    its weight is positive.

    Edge cases: thresholds are inclusive, to within 1e-9; a sum that could not be measured makes the
    result NaN if its level is open and is ignored if it is not; a reward is not even asked if its
    level is closed for the whole group.

    Raises:
        UserError: a level that gates others has no threshold.

    Paper: ChatShopBuddy (arXiv 2603.06065). Source: inspired by it, written without its code; the
    tree and the bounds are ours.
    """

    name: Literal["gate"] = "gate"
    levels: list[Level] = Field(
        min_length=1,
        description="levels of rewards, the most important one first; each gates the next",
    )

    @model_validator(mode="after")
    def _thresholds(self) -> Gate:
        nodes = list(self._nodes())
        for gate, _ in nodes:
            if gate is not None and nodes[gate][1].threshold is None:
                raise ValueError(
                    f"the level '{nodes[gate][1].of.recipe_key}' gates others and needs a threshold"
                )
        return self

    @property
    def inner(self) -> list[TurnReward]:
        """List the reward of every level."""
        return [level.of for _, level in self._nodes()]

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        """Pay every episode its open levels on the last turn, and 0 before."""
        paid = [0.0] * len(group)
        passed: list[list[bool]] = []
        for gate, level in self._nodes():
            reached = [True] * len(group) if gate is None else passed[gate]
            # A closed level has its place in `passed` too, where those that it gates look.
            passed.append([False] * len(group))
            if not any(reached):
                continue
            for e, total in enumerate(await inner_sums(level.of, group, scorer)):
                if reached[e]:
                    paid[e] += level.weight * level.share(total)
                    passed[-1][e] = level.opens(total)
        return on_last_turn(paid, group)

    def _nodes(self) -> Iterator[tuple[int | None, Level]]:
        """Yield every level after the level that gates it, with the index of that one."""
        nodes: list[tuple[int | None, Level]] = []

        def visit(gate: int | None, level: Level) -> int:
            nodes.append((gate, level))
            index = len(nodes) - 1
            for inner in level.levels:
                visit(index, inner)
            return index

        before: int | None = None
        for level in self.levels:
            before = visit(before, level)
        return iter(nodes)
