"""An engine that says what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from turnrl.agents.agent import LanguageAgent
from turnrl.agents.config import AgentConfig
from turnrl.agents.engines.base import Capabilities, Completion, Engine, Sampling
from turnrl.agents.models.tiny import END, train_tokenizer

from ..toy_world import TEXTS

Answer = Callable[[str, int, str], str | Exception]
"""(conversation, turn, prompt as text) -> what to write, or what to raise."""


@cache
def tokenizer() -> Any:
    return train_tokenizer(TEXTS, 320)


class FakeEngine(Engine):
    """Plays without a model."""

    full_precision = True

    def __init__(self, answer: Answer, max_context: int = 10_000) -> None:
        super().__init__(Capabilities(scores=True, takes_weights=True), max_context)
        self.answer = answer
        self.prompts: dict[str, list[list[int]]] = {}
        self.most_live = 0
        self.log: list[tuple[str, str]] = []

    def _opened(self, conversation: str) -> None:
        self.most_live = max(self.most_live, len(self.conversations) + 1)
        self.log.append(("open", conversation))

    def _finished(self, conversation: str) -> None:
        self.log.append(("finish", conversation))

    def _closed(self, conversation: str) -> None:
        self.log.append(("close", conversation))

    async def _generate(
        self, conversation: str, prompt: Sequence[int], sampling: Sampling
    ) -> Completion:
        asked = self.prompts.setdefault(conversation, [])
        asked.append(list(prompt))
        await asyncio.sleep(0)
        said = self.answer(conversation, len(asked) - 1, tokenizer().decode(prompt))
        if isinstance(said, Exception):
            raise said
        ids = [*tokenizer().encode(said), tokenizer().convert_tokens_to_ids(END)]
        self.stats.generated_tokens += len(ids)
        return Completion(ids, [-0.5] * len(ids), "stop", self.version)

    async def _score(
        self, conversation: str | None, tokens: Sequence[int], start: int
    ) -> list[float]:
        return [0.0] * (len(tokens) - start)

    async def _push(self, weights: Mapping[str, Any], version: int) -> None:
        pass


def light(prompt: str) -> str:
    """The colour shown last: what a perfect player says."""
    return prompt.rpartition("Now ")[2].partition("<")[0].strip()


def perfect(conversation: str, turn: int, prompt: str) -> str:
    return light(prompt)


def agent(engine: FakeEngine, **config: Any) -> LanguageAgent:
    return AgentConfig.model_validate({"system": False, **config}).build(engine, tokenizer())
