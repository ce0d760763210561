"""check_engine: two families and an outsider's engine pass; what is broken is found by its rule."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import turnrl
from turnrl.agents.engines.base import (
    ENGINES,
    Capabilities,
    Completion,
    ContextOverflow,
    EngineError,
    Sampling,
)
from turnrl.agents.engines.rules import RULES
from turnrl.agents.engines.torch.engine import TorchEngine

from ..outsider.engine import CAN, VOCABULARY, EchoEngine, table
from .test_torch_engine import VOCABULARY as WORDS
from .test_torch_engine import build

WEIGHTS = table(1), table(2)


@pytest.mark.parametrize("family", ["qwen2", "gpt_neox"])
@pytest.mark.parametrize("patience_ms", [None, 1.0])
def test_the_torch_engine_passes(family: str, patience_ms: float | None) -> None:
    model, other = build(family, max_position_embeddings=64), build(family, seed=1)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = turnrl.check_engine(
        TorchEngine(model, patience_ms=patience_ms),
        vocabulary=WORDS,
        weights=(own, other.state_dict()),
    )
    skipped = [result.name for result in report.results if result.status == "skipped"]
    assert skipped == ([] if patience_ms is None else ["bit-exact"])


def test_an_engine_of_one_file_is_found_by_its_path_and_passes() -> None:
    path = Path(__file__).parents[1] / "outsider" / "engine.py"
    config = ENGINES.build({"name": f"{path}:Echo", "context": 48})
    assert config.capabilities == CAN
    loaded: Any = None
    engine = config.make(loaded, None)
    report = turnrl.check_engine(engine, vocabulary=VOCABULARY, weights=WEIGHTS)
    assert report.ok
    assert all(result.ok for result in report.results)
    assert (engine.max_context, engine.conversations) == (48, {})


def test_what_an_engine_cannot_do_is_skipped() -> None:
    engine = EchoEngine()
    engine.capabilities = Capabilities()
    report = turnrl.check_engine(engine, vocabulary=VOCABULARY)
    assert {result.name for result in report.results if result.status == "skipped"} == {
        "score",
        "score in a conversation",
        "bit-exact",
        "push",
        "push in a conversation",
        "push in a response",
    }


class TooFewLogprobs(EchoEngine):
    async def _generate(self, *asked: Any) -> Completion:
        said = await super()._generate(*asked)
        return replace(said, logprobs=said.logprobs[1:])


class NoSeed(EchoEngine):
    async def _generate(self, talk: str, prompt: Sequence[int], sampling: Sampling) -> Completion:
        seed = random.randrange(2**31)
        return await super()._generate(talk, prompt, sampling.model_copy(update={"seed": seed}))


class SameSeed(EchoEngine):
    async def _generate(self, talk: str, prompt: Sequence[int], sampling: Sampling) -> Completion:
        return await super()._generate(talk, prompt, sampling.model_copy(update={"seed": 0}))


class GreedyIsWarm(EchoEngine):
    async def _generate(self, talk: str, prompt: Sequence[int], sampling: Sampling) -> Completion:
        warm = sampling.model_copy(update={"temperature": sampling.temperature or 1.0})
        return await super()._generate(talk, prompt, warm)


class LengthChangesTokens(EchoEngine):
    async def _generate(self, talk: str, prompt: Sequence[int], sampling: Sampling) -> Completion:
        seed = sampling.seed + sampling.max_tokens
        return await super()._generate(talk, prompt, sampling.model_copy(update={"seed": seed}))


class DropsStopToken(EchoEngine):
    async def _generate(self, *asked: Any) -> Completion:
        said = await super()._generate(*asked)
        cut = slice(None, -1) if said.finish_reason == "stop" else slice(None)
        return replace(said, token_ids=said.token_ids[cut], logprobs=said.logprobs[cut])


class OverrunsItsContext(EchoEngine):
    async def _generate(self, *asked: Any) -> Completion:
        self.max_context += 100
        try:
            return await super()._generate(*asked)
        finally:
            self.max_context -= 100


class ScoresAnotherModel(EchoEngine):
    async def _score(self, *asked: Any) -> list[float]:
        return [score - 0.01 for score in await super()._score(*asked)]


class ScoresByItsConversation(EchoEngine):
    async def _score(
        self, conversation: str | None, tokens: Sequence[int], start: int
    ) -> list[float]:
        scores = await super()._score(conversation, tokens, start)
        return scores if conversation is None else scores[::-1]


class RemembersTheConversation(EchoEngine):
    """Its tokens depend on how much of the conversation it had read before."""

    async def _generate(self, talk: str, prompt: Sequence[int], sampling: Sampling) -> Completion:
        seed = sampling.seed + self.read.get(talk, 0)
        return await super()._generate(talk, prompt, sampling.model_copy(update={"seed": seed}))


class RemembersTheId(EchoEngine):
    """Its tokens depend on what a conversation of the same id did before."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[str, int] = {}

    async def _generate(self, talk: str, prompt: Sequence[int], sampling: Sampling) -> Completion:
        seed = sampling.seed + self.last.get(talk, 0)
        return await super()._generate(talk, prompt, sampling.model_copy(update={"seed": seed}))

    def _closed(self, conversation: str) -> None:
        self.last[conversation] = 1
        super()._closed(conversation)


class DependsOnTheBatch(EchoEngine):
    async def _generate(self, talk: str, prompt: Sequence[int], sampling: Sampling) -> Completion:
        await asyncio.sleep(0)
        seed = sampling.seed + len(self.read.keys() - {talk})
        return await super()._generate(talk, prompt, sampling.model_copy(update={"seed": seed}))


class RoundsByChance(EchoEngine):
    async def _generate(self, *asked: Any) -> Completion:
        said = await super()._generate(*asked)
        return replace(said, logprobs=[p - 1e-9 * random.random() for p in said.logprobs])


class OpensTwice(EchoEngine):
    def conversation(self, id: str) -> Any:
        if id in self.conversations:
            self.conversations.pop(id).closed = True
        return super().conversation(id)


class AnswersAfterTheEnd(EchoEngine):
    def conversation(self, id: str) -> Any:
        talk = super().conversation(id)
        talk.finish = lambda: None  # type: ignore[method-assign]
        return talk


class AnswersWhatWasClosed(EchoEngine):
    def _closed(self, conversation: str) -> None:
        pass


class KeepsCaches(EchoEngine):
    kept = 0

    @property
    def kept_tokens(self) -> int:
        return super().kept_tokens + self.kept

    def _closed(self, conversation: str) -> None:
        self.kept += self.read.get(conversation, 0)
        super()._closed(conversation)


class RaisesAnything(EchoEngine):
    def logprobs(self, last: int, temperature: float = 1.0) -> list[float]:
        if last >= VOCABULARY:
            raise IndexError(last)
        return super().logprobs(last, temperature)


class AnswersAnything(EchoEngine):
    def logprobs(self, last: int, temperature: float = 1.0) -> list[float]:
        return super().logprobs(last % VOCABULARY, temperature)


class DiesWhenCancelled(EchoEngine):
    dead = False

    async def _generate(self, *asked: Any) -> Completion:
        if self.dead:
            raise EngineError("it stopped")
        try:
            return await super()._generate(*asked)
        except asyncio.CancelledError:
            self.dead = True
            raise


class StaleWeights(EchoEngine):
    async def _push(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        pass


class KeepsTheOldVersion(EchoEngine):
    async def _generate(self, *asked: Any) -> Completion:
        return replace(await super()._generate(*asked), version=0)


class StaleCaches(EchoEngine):
    """A conversation goes on with the weights that it began with."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[str, Any] = {}

    async def _generate(self, talk: str, prompt: Sequence[int], sampling: Sampling) -> Completion:
        now = self.pairs
        self.pairs = self.weights.setdefault(talk, now)
        try:
            return await super()._generate(talk, prompt, sampling)
        finally:
            self.pairs = now


class VersionOfTheLastToken(EchoEngine):
    async def _generate(self, *asked: Any) -> Completion:
        said = await super()._generate(*asked)
        return replace(said, version=self.version)


class Hangs(EchoEngine):
    async def _generate(self, *asked: Any) -> Completion:
        await asyncio.sleep(3600)
        raise AssertionError


BROKEN: dict[type[EchoEngine], str] = {
    TooFewLogprobs: "response",
    Hangs: "response",
    NoSeed: "seeds",
    SameSeed: "seeds",
    GreedyIsWarm: "greedy",
    LengthChangesTokens: "length",
    DropsStopToken: "stop token",
    OverrunsItsContext: "context",
    ScoresAnotherModel: "score",
    ScoresByItsConversation: "score in a conversation",
    RemembersTheConversation: "turns",
    DependsOnTheBatch: "together",
    RoundsByChance: "bit-exact",
    OpensTwice: "ids",
    RemembersTheId: "ids",
    AnswersAfterTheEnd: "over",
    AnswersWhatWasClosed: "over",
    KeepsCaches: "frees",
    RaisesAnything: "failure",
    AnswersAnything: "failure",
    DiesWhenCancelled: "cancel",
    StaleWeights: "push",
    KeepsTheOldVersion: "push",
    StaleCaches: "push in a conversation",
    VersionOfTheLastToken: "push in a response",
}


@pytest.mark.parametrize("engine", BROKEN, ids=lambda engine: engine.__name__)
def test_a_broken_engine_is_found_by_the_rule_that_it_breaks(engine: type[EchoEngine]) -> None:
    limit = 0.2 if engine is Hangs else 10.0
    options: dict[str, Any] = {"vocabulary": VOCABULARY, "weights": WEIGHTS, "limit": limit}
    report = turnrl.check_engine(engine(), report=True, **options)
    assert report.failures[0].name == BROKEN[engine], str(report)
    with pytest.raises(AssertionError, match=BROKEN[engine]):
        turnrl.check_engine(engine(), **options)


def test_an_engine_that_waits_for_nobody_is_not_bit_exact() -> None:
    hasty = TorchEngine(build(max_position_embeddings=64), patience_ms=0)
    hasty.capabilities = replace(hasty.capabilities, bit_exact=True)
    report = turnrl.check_engine(hasty, vocabulary=WORDS, report=True)
    assert [result.name for result in report.failures] == ["bit-exact"], str(report)


def test_every_rule_is_broken_by_some_engine() -> None:
    assert RULES.keys() - set(BROKEN.values()) == {"declares"}


def test_what_is_no_engine_is_refused_in_a_sentence() -> None:
    nothing: Any = object()
    with pytest.raises(turnrl.UserError, match="takes an Engine, not a object"):
        turnrl.check_engine(nothing, vocabulary=3)


def test_an_engine_refuses_what_it_does_not_declare() -> None:
    engine = EchoEngine()
    engine.capabilities = Capabilities()
    with pytest.raises(turnrl.UserError, match="does not score"):
        asyncio.run(engine.score([1, 2], 1))
    with pytest.raises(turnrl.UserError, match="takes no weights"):
        asyncio.run(engine.push({}, 1))
    with pytest.raises(ContextOverflow):
        asyncio.run(EchoEngine(max_context=32).score([1] * 33, 1))
