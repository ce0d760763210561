"""An engine as an outsider would write it: one file, no model, plain Python.

Its model says the next token after the last one by a table of weights, one number per pair.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from turnrl.agents.engines.base import (
    Capabilities,
    Completion,
    Engine,
    EngineConfig,
    EngineError,
    Sampling,
)

VOCABULARY = 23
CAN = Capabilities(scores=True, takes_weights=True, bit_exact=True)


def table(seed: int) -> dict[str, torch.Tensor]:
    """Draw random weights."""
    rng = random.Random(seed)
    pairs = [[rng.gauss(0, 2) for _ in range(VOCABULARY)] for _ in range(VOCABULARY)]
    return {"pairs": torch.tensor(pairs)}


class EchoEngine(Engine):
    """Plays a table of pairs; it remembers how much of each conversation it has read."""

    def __init__(self, max_context: int = 64) -> None:
        super().__init__(CAN, max_context)
        self.pairs: list[list[float]] = table(0)["pairs"].tolist()
        self.read: dict[str, int] = {}

    @property
    def kept_tokens(self) -> int:
        """Count the tokens that were read of conversations that are not closed."""
        return sum(self.read.values())

    def logprobs(self, last: int, temperature: float = 1.0) -> list[float]:
        """Compute the log-probabilities of the token after `last`."""
        if not 0 <= last < VOCABULARY:
            raise EngineError(f"{last} is no token of this model")
        scaled = [value / temperature for value in self.pairs[last]]
        total = math.log(sum(map(math.exp, scaled)))
        return [value - total for value in scaled]

    async def _generate(
        self, conversation: str, prompt: Sequence[int], sampling: Sampling
    ) -> Completion:
        ids: list[int] = []
        logprobs: list[float] = []
        version, last = self.version, prompt[-1]
        reason: Literal["stop", "length"] = "length"
        self.read[conversation] = len(prompt)
        while len(ids) < sampling.max_tokens and len(prompt) + len(ids) < self.max_context:
            known = self.logprobs(last, sampling.temperature or 1.0)
            stream = random.Random(f"{sampling.seed}:{len(ids)}")
            if sampling.temperature == 0:
                last = max(range(VOCABULARY), key=known.__getitem__)
            else:
                [last] = stream.choices(range(VOCABULARY), [math.exp(p) for p in known])
            ids.append(last)
            logprobs.append(known[last])
            self.stats.generated_tokens += 1
            if last in sampling.stop_token_ids:
                reason = "stop"
                break
            await asyncio.sleep(0)
            if conversation not in self.read:
                raise EngineError(f"conversation '{conversation}' was closed")
        return Completion(ids, logprobs, reason, version)

    async def _score(
        self, conversation: str | None, tokens: Sequence[int], start: int
    ) -> list[float]:
        return [self.logprobs(tokens[i - 1])[tokens[i]] for i in range(start, len(tokens))]

    async def _push(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        self.pairs = weights["pairs"].tolist()

    def _closed(self, conversation: str) -> None:
        self.read.pop(conversation, None)


class Echo(EngineConfig):
    """Echo the last token through a table.

    Source: an example.
    """

    name: Literal["echo"] = "echo"
    context: int = Field(64, ge=8, description="longest prompt plus response, in tokens")

    @property
    def capabilities(self) -> Capabilities:
        """Declare everything but sharing the trainer's module."""
        return CAN

    def make(self, loaded: Any, max_context: int | None) -> EchoEngine:
        """Make an engine; the model that was loaded is not looked at."""
        return EchoEngine(max_context or self.context)
