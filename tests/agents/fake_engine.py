"""An engine that says what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from turnrl.agents.agent import LanguageAgent
from turnrl.agents.config import AgentConfig
from turnrl.agents.engines.base import Completion, EngineStats, Sampling
from turnrl.agents.models.tiny import END, train_tokenizer

from ..toy_world import TEXTS

Answer = Callable[[str, int, str], str | Exception]
"""(session, turn, prompt as text) -> what to write, or what to raise."""


@cache
def tokenizer() -> Any:
    return train_tokenizer(TEXTS, 320)


class FakeEngine:
    """Implements the Engine protocol without a model."""

    full_precision = True

    def __init__(self, answer: Answer, max_context: int = 10_000) -> None:
        self.answer, self.max_context = answer, max_context
        self.stats = EngineStats()
        self.prompts: dict[str, list[list[int]]] = {}
        self.live: set[str] = set()
        self.most_live = 0
        self.log: list[tuple[str, str]] = []

    def open(self, session: str) -> None:
        assert session not in self.live
        self.live.add(session)
        self.most_live = max(self.most_live, len(self.live))
        self.log.append(("open", session))

    def park(self, session: str) -> None:
        self.log.append(("park", session))

    def close(self, session: str) -> None:
        self.live.remove(session)
        self.log.append(("close", session))

    async def generate(
        self, prompt: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        assert session in self.live, "a closed conversation asked for a response"
        asked = self.prompts.setdefault(session, [])
        asked.append(list(prompt))
        await asyncio.sleep(0)
        said = self.answer(session, len(asked) - 1, tokenizer().decode(prompt))
        if isinstance(said, Exception):
            raise said
        ids = [*tokenizer().encode(said), tokenizer().convert_tokens_to_ids(END)]
        self.stats.generated_tokens += len(ids)
        return Completion(ids, [-0.5] * len(ids), "stop")

    async def score(
        self, tokens: Sequence[int], start: int, *, session: str | None = None
    ) -> list[float]:
        return [0.0] * (len(tokens) - start)

    async def push(self, weights: Mapping[str, Any], version: int) -> None:
        pass


def light(prompt: str) -> str:
    """The colour shown last: what a perfect player says."""
    return prompt.rpartition("Now ")[2].partition("<")[0].strip()


def perfect(session: str, turn: int, prompt: str) -> str:
    return light(prompt)


def agent(engine: FakeEngine, **config: Any) -> LanguageAgent:
    return AgentConfig.model_validate({"system": False, **config}).build(engine, tokenizer())
