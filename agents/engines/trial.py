"""EngineTrial: an engine on trial, and what the rules of `check_engine` ask it with."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...foundation.checking import Rules, Skip
from .base import Completion, Conversation, Engine, Sampling

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 8
"""Length of most responses."""


@dataclass
class EngineTrial:
    """An engine under trial, and what a rule asks it with."""

    engine: Engine
    vocabulary: int
    """The ids below it may be fed."""
    weights: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None
    """Two sets, the answers with which differ."""
    tolerance: float
    """Largest difference, in nats, of log-probabilities that are the same but for rounding."""
    limit: float
    """Seconds after which a rule is a finding."""
    runner: asyncio.Runner
    """One event loop for all rules: an engine may hold connections."""
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def prompt(self, seed: object = 0, length: int = 12) -> list[int]:
        """Make a prompt of random ids."""
        rng = random.Random(str(seed))
        return [rng.randrange(self.vocabulary) for _ in range(length)]

    def conversation(self) -> Conversation:
        """Open a conversation with an id that was never used."""
        return self.engine.conversation(f"check-{next(self.numbers):06d}")

    async def ask(self, prompt: Sequence[int] | None = None, **sampling: Any) -> Completion:
        """Sample a response in a conversation of its own."""
        async with self.conversation() as talk:
            fields = {"max_tokens": TOKENS} | sampling
            return await talk.generate(prompt or self.prompt(), Sampling(**fields))

    def near(self, some: Sequence[float], others: Sequence[float]) -> bool:
        """Compare log-probabilities up to the tolerance."""
        pairs = zip(some, others, strict=False)
        return len(some) == len(others) and all(abs(a - b) <= self.tolerance for a, b in pairs)

    def same(self, some: Completion, other: Completion) -> bool:
        """Compare responses: their tokens, and log-probabilities up to the tolerance."""
        return some.token_ids == other.token_ids and self.near(some.logprobs, other.logprobs)

    def can(self, what: str) -> None:
        """Skip the rule if the engine does not declare this capability."""
        if not getattr(self.engine.capabilities, what):
            raise Skip(f"it does not declare '{what}'")

    async def push(self, which: int, version: int) -> None:
        """Give the engine one of the two sets of weights; skip the rule if there are none."""
        self.can("takes_weights")
        if self.weights is None:
            raise Skip("no weights were given to push")
        await self.engine.push(self.weights[which], version)


RULES: Rules[EngineTrial] = Rules()
Check = Callable[[EngineTrial], Awaitable[str | None]]


def rule(name: str, needs: tuple[str, ...] = ("response",)) -> Callable[[Check], Check]:
    """Register a check under its name; nearly all need an engine that answers."""

    def add(check: Check) -> Check:
        def tried(trial: EngineTrial) -> str | None:
            async def limited() -> str | None:
                return await asyncio.wait_for(check(trial), trial.limit)

            try:
                return trial.runner.run(limited())
            except TimeoutError:
                raise AssertionError(f"no answer within {trial.limit:g} s") from None
            finally:
                for talk in list(trial.engine.conversations.values()):
                    talk.close()

        RULES.rule(name, needs)(tried)
        return check

    return add
