"""The engine `openai`: it keeps the contract over HTTP, and believes nothing that cannot be."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
import turnrl
from turnrl.agents.engines.base import (
    ENGINES,
    Capabilities,
    Completion,
    EngineError,
    Sampling,
)
from turnrl.agents.engines.openai import OpenAIEngine
from turnrl.agents.teachers.endpoint import Endpoint
from turnrl.agents.teachers.endpoint_config import EndpointConfig
from turnrl.foundation.errors import UserError

from ..outsider.engine import VOCABULARY
from .fake_server import Reply, Server, direct, serving  # noqa: F401
from .fake_vllm import LIMIT, TokenServer

NOTHING: Any = None


def engine_of(server: Server, **fields: Any) -> OpenAIEngine:
    config = EndpointConfig(url=server.url, model="m", **fields)
    return OpenAIEngine(Endpoint(config, "engine"), LIMIT - 1)


def generate(engine: OpenAIEngine, prompt: list[int], **sampling: Any) -> Completion:
    async def once() -> Completion:
        async with engine.conversation("one") as talk:
            return await talk.generate(prompt, Sampling(**sampling))

    return asyncio.run(once())


def test_it_passes_the_suite_of_every_engine() -> None:
    with serving(TokenServer().routes) as server:
        report = turnrl.check_engine(engine_of(server), vocabulary=VOCABULARY)
    skipped = {result.name for result in report.results if result.status == "skipped"}
    assert skipped == {"bit-exact", "push", "push in a conversation", "push in a response"}


def test_a_recipe_s_block_makes_it_and_the_server_tells_how_long_a_context_may_be() -> None:
    with serving(TokenServer().routes) as server:
        block = {"name": "openai", "endpoint": {"url": server.url, "model": "m"}}
        config = ENGINES.build(block)
        engines = [config.make(NOTHING, longest) for longest in (None, 32)]
        silent = ENGINES.build(block | {"scores": False})
    assert [engine.max_context for engine in engines] == [LIMIT - 1, 32]
    assert config.capabilities == Capabilities(scores=True)
    assert silent.capabilities == Capabilities()


def test_a_model_that_the_server_does_not_have_is_said_before_anything_is_played() -> None:
    with serving(TokenServer().routes) as server:
        block = {"name": "openai", "endpoint": {"url": server.url, "model": "othr"}}
        with pytest.raises(UserError, match=r"has no model 'othr'; did you mean 'other'\?"):
            ENGINES.build(block).make(NOTHING, None)


def test_a_server_that_tells_no_limit_needs_one() -> None:
    with serving({"/models": lambda body: Reply(404)}) as server:
        config = ENGINES.build({"name": "openai", "endpoint": {"url": server.url, "model": "m"}})
        assert config.make(NOTHING, 100).max_context == 100
        with pytest.raises(UserError, match="say max_context"):
            config.make(NOTHING, None)


def test_every_setting_is_sent_so_that_no_default_of_the_model_counts() -> None:
    with serving(TokenServer().routes) as server:
        generate(engine_of(server), [1, 2], max_tokens=3, seed=5, stop=("x",), stop_token_ids=(7,))
    assert server.requests == [
        {
            "model": "m",
            "prompt": [1, 2],
            "max_tokens": 3,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "seed": 5,
            "stop": ["x"],
            "stop_token_ids": [7],
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
            "ignore_eos": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "return_token_ids": True,
            "logprobs": 0,
        }
    ]


def test_what_was_cached_is_counted() -> None:
    with serving(TokenServer().routes) as server:
        engine = engine_of(server)
        generate(engine, [1, 2, 3, 4, 5], max_tokens=3)
        asyncio.run(engine.score([1, 2, 3, 4], 2))
    stats = engine.stats
    counted = stats.requests, stats.prompt_tokens, stats.cached_tokens, stats.generated_tokens
    assert (*counted, stats.scored_tokens) == (1, 3, 2, 3, 2)


def test_logprobs_of_another_temperature_are_not_taken_for_those_of_the_sampling() -> None:
    with serving(TokenServer(processed=False).routes) as server:
        engine = engine_of(server)
        for temperature in (0.0, 1.0):
            assert generate(engine, [1, 2], temperature=temperature).logprobs
        with pytest.raises(UserError, match="processed_logprobs"):
            generate(engine, [1, 2], temperature=0.7)
    with serving(TokenServer().routes) as server:
        engine = engine_of(server)
        assert generate(engine, [1, 2], temperature=0.7).logprobs
        asked = len(server.requests)
        generate(engine, [1, 2], temperature=0.7)
    assert (asked, len(server.requests)) == (3, 4), "the temperature is looked at once"


@pytest.mark.parametrize("field", ["token_ids", "logprobs"])
def test_a_server_without_ids_or_logprobs_is_refused_in_a_sentence(field: str) -> None:
    model = TokenServer()
    model.hidden = {field}
    with serving(model.routes) as server, pytest.raises(UserError, match="the server returns no"):
        generate(engine_of(server), [1, 2])


def test_a_server_that_does_not_score_is_refused_in_a_sentence() -> None:
    model = TokenServer()
    model.hidden = {"prompt_logprobs"}
    with serving(model.routes) as server, pytest.raises(UserError, match="cannot score"):
        asyncio.run(engine_of(server).score([1, 2], 1))


LIES: dict[str, dict[str, Any]] = {
    "too many tokens": {"token_ids": [1, 2, 3, 4]},
    "no token": {"token_ids": []},
    "ids that are none": {"token_ids": [1, -2, 3]},
    "words": {"token_ids": ["a", "b", "c"]},
    "another number of log-probabilities": {"logprobs": {"token_logprobs": [-1.0]}},
    "a probability above one": {"logprobs": {"token_logprobs": [-1.0, 2.0, -1.0]}},
    "a probability that is none": {"logprobs": {"token_logprobs": [-1.0, math.inf, -1.0]}},
    "true for a number": {"logprobs": {"token_logprobs": [-1.0, False, -1.0]}},
    "another prompt": {"prompt_token_ids": [1, 3]},
    "an end without a name": {"finish_reason": None},
    "an end that is a failure": {"finish_reason": "abort"},
}


@pytest.mark.parametrize("lie", LIES)
def test_what_cannot_be_a_response_fails_the_request(lie: str) -> None:
    model = TokenServer()
    model.changes = LIES[lie]
    with serving(model.routes) as server, pytest.raises(EngineError, match="unreadable"):
        generate(engine_of(server), [1, 2], max_tokens=3)


@pytest.mark.parametrize(
    "told",
    [
        [None],
        [None, {"7": {"logprob": -1.0}}],
        [None, {"2": {"logprob": 1.0}}],
        [None, {"2": -1.0}],
        {},
        3,
    ],
)
def test_what_cannot_be_scores_fails_the_request(told: Any) -> None:
    model = TokenServer()
    model.changes = {"prompt_logprobs": told}
    with serving(model.routes) as server, pytest.raises(EngineError, match="unreadable"):
        asyncio.run(engine_of(server).score([1, 2], 1))


def test_the_first_refusal_is_the_user_s_and_a_later_one_the_request_s() -> None:
    with serving({"/completions": lambda body: Reply(401, "wrong key")}) as server:
        engine = engine_of(server)
        with pytest.raises(UserError, match="refused the first request: status 401: wrong key"):
            generate(engine, [1])
        with pytest.raises(EngineError, match="refused: status 401"):
            generate(engine, [1])


def test_a_request_is_tried_again_before_it_fails() -> None:
    model, failures = TokenServer(), iter([Reply(503), Reply(0)])

    def flaky(body: dict[str, Any]) -> Reply:
        return next(failures, None) or model.complete(body)

    with serving({"/completions": flaky}) as server:
        assert len(generate(engine_of(server), [1, 2], max_tokens=3).token_ids) == 3
    assert len(server.requests) == 3
