"""Engine ``openai``: a server that takes token ids and tells what it sampled, as vLLM does.

It asks the completions route with the prompt's ids, and wants ids and log-probabilities back
(``return_token_ids``, ``logprobs``); scores are the log-probabilities of a prompt
(``prompt_logprobs``). Every setting of the sampling is sent, so that no default of the server or
of its model's ``generation_config`` changes the distribution. All requests pass through `_ask`,
which a subclass with a server of its own may extend.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field

from ...foundation.errors import UserError, nearest
from ..teachers.endpoint import LARGEST, Endpoint
from ..teachers.endpoint_config import EndpointConfig, EndpointError
from ..teachers.reply import HttpReply, are_ids, are_logprobs, shown_url
from .base import Capabilities, Completion, Engine, EngineConfig, EngineError, Sampling

if TYPE_CHECKING:
    from ..models.load import Loaded

T = TypeVar("T")

COMPLETIONS, MODELS = "/completions", "/models"
CAN = Capabilities(scores=True)
_PER_TOKEN = 1000
"""Bytes that a reply may hold for every token of the context."""
_ALL_ELSE = {
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "ignore_eos": True,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "return_token_ids": True,
}
"""What a server would otherwise take from its model: only what is asked for shapes a response."""


class OpenAIEngine(Engine):
    """Plays through a server that takes and returns token ids.

    Its log-probabilities are believed to be those after the temperature only where a look at two
    temperatures says so (vLLM: ``--logprobs-mode processed_logprobs``); other servers can be asked
    at temperature 0 and 1.

    Args:
        endpoint: the server.
        max_context: longest prompt plus response, in tokens: one less than the server's own limit,
            since it samples a token after what it scores.
        capabilities: what the server can do.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        max_context: int,
        capabilities: Capabilities = CAN,
    ) -> None:
        super().__init__(capabilities, max_context)
        self.endpoint = endpoint
        endpoint.largest = LARGEST + _PER_TOKEN * max_context
        self._pending: dict[str, set[asyncio.Task[Any]]] = {}
        self._tempered: bool | None = None

    async def _generate(
        self, conversation: str, prompt: Sequence[int], sampling: Sampling
    ) -> Completion:
        if sampling.temperature not in (0, 1):
            await self._of(conversation, self._check_temperature(prompt))
        version, tokens = self.version, min(sampling.max_tokens, self.max_context - len(prompt))
        body = sampled(prompt, sampling, tokens) | {"logprobs": 0}
        completion, cached = await self._of(
            conversation,
            self._ask(body, lambda reply: read_completion(reply, prompt, tokens)),
        )
        self.stats.cached_tokens += cached
        self.stats.prompt_tokens += len(prompt) - cached
        self.stats.generated_tokens += len(completion.token_ids)
        completion.version = version
        return completion

    async def _score(
        self, conversation: str | None, tokens: Sequence[int], start: int
    ) -> list[float]:
        body = sampled(tokens, Sampling(temperature=0), 1) | {"prompt_logprobs": 0}
        scores = await self._of(
            conversation, self._ask(body, lambda reply: read_scores(reply, tokens))
        )
        self.stats.scored_tokens += len(tokens) - start
        return scores[start - 1 :]

    def _closed(self, conversation: str) -> None:
        for task in self._pending.pop(conversation, ()):
            task.cancel()

    async def _of(self, conversation: str | None, work: Coroutine[Any, Any, T]) -> T:
        """Wait for work that ends with its conversation. Raises EngineError if that was closed."""
        if conversation is None:
            return await work
        task = asyncio.ensure_future(work)
        mine = self._pending.setdefault(conversation, set())
        mine.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if (me := asyncio.current_task()) is not None and me.cancelling():
                raise  # not the request was given up, but who waits for it
            raise EngineError(f"conversation '{conversation}' was closed") from None
        finally:
            mine.discard(task)

    async def _ask(self, body: dict[str, Any], read: Callable[[HttpReply], T]) -> T:
        """Send one request and read its reply.

        Raises EngineError if it failed for good; UserError if it was the first and was refused.
        """
        data = json.dumps({"model": self.endpoint.config.model, **body}).encode()
        try:
            return await self.endpoint.post(COMPLETIONS, data, read)
        except EndpointError as error:
            if error.kind == "refused" and error.first:
                raise self.endpoint.refusal(error) from None
            raise EngineError(str(error)) from error

    async def _check_temperature(self, prompt: Sequence[int]) -> None:
        """Look whether log-probabilities follow the temperature. Raises UserError if not."""
        if self._tempered is None:
            bodies = [sampled(prompt, Sampling(temperature=t), 1) for t in (1.0, 0.5)]
            warm, cool = [
                await self._ask(body | {"logprobs": 5}, read_alternatives) for body in bodies
            ]
            differences = [abs(warm[token] - cool[token]) for token in warm.keys() & cool.keys()]
            self._tempered = max(differences, default=0.0) > 1e-3
        if not self._tempered:
            raise UserError(
                f"the server at {shown_url(self.endpoint.config.url)} tells the log-probabilities"
                " of temperature 1 whatever it samples with: ask it at temperature 1 or 0, or"
                " start vLLM with --logprobs-mode processed_logprobs"
            )


def sampled(prompt: Sequence[int], sampling: Sampling, tokens: int) -> dict[str, Any]:
    """Return the body of a request for at most so many tokens, without the model's name."""
    body: dict[str, Any] = {
        "prompt": list(prompt),
        "max_tokens": tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "seed": sampling.seed,
        "stop": list(sampling.stop),
        "stop_token_ids": list(sampling.stop_token_ids),
    }
    return body | ({"min_tokens": sampling.min_tokens} if sampling.min_tokens else {}) | _ALL_ELSE


def read_completion(reply: HttpReply, prompt: Sequence[int], most: int) -> tuple[Completion, int]:
    """Read what was sampled after a prompt, and how much of the prompt was found in a cache.

    Raises EndpointError for what cannot be an answer of `most` tokens at most, UserError if the
    server tells no ids.
    """
    choice, data = _choice(reply)
    ids, found = choice.get("token_ids"), choice.get("logprobs")
    logprobs = found.get("token_logprobs") if isinstance(found, dict) else None
    if ids is None or logprobs is None:
        raise UserError(
            f"the server returns no {'token ids' if ids is None else 'log-probabilities'}: only one"
            " that does (vLLM) can be asked with token ids"
        )
    if not are_ids(ids) or not 1 <= len(ids) <= most:
        raise EndpointError("unreadable", f"1 to {most} token ids were asked for")
    if not are_logprobs(logprobs) or len(logprobs) != len(ids):
        raise EndpointError("unreadable", f"{len(ids)} tokens need as many log-probabilities")
    if choice.get("prompt_token_ids", list(prompt)) not in (None, list(prompt)):
        raise EndpointError("unreadable", "the server read another prompt than it was sent")
    reason: Any = choice.get("finish_reason")
    if reason not in ("stop", "length"):
        raise EndpointError("unreadable", f"a response ended as {str(reason)[:40]!r}")
    usage = data.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return (
        Completion(ids, [min(p, 0.0) for p in logprobs], reason),
        min(max(cached, 0), len(prompt)) if isinstance(cached, int) else 0,
    )


def read_scores(reply: HttpReply, tokens: Sequence[int]) -> list[float]:
    """Read the log-probability of each token but the first.

    Raises EndpointError for another answer, UserError if the server tells none.
    """
    choice, _ = _choice(reply)
    if (found := choice.get("prompt_logprobs")) is None:
        raise UserError("the server tells no log-probabilities of prompts: it cannot score tokens")
    try:
        scores = [found[i][str(token)]["logprob"] for i, token in enumerate(tokens) if i]
    except (LookupError, TypeError):
        scores = [None]
    if not are_logprobs(scores):
        raise EndpointError("unreadable", f"no log-probability of each of {len(tokens)} tokens")
    return [min(p, 0.0) for p in scores]


def read_alternatives(reply: HttpReply) -> dict[str, float]:
    """Read the likeliest first tokens and their log-probabilities; none where none are told."""
    choice, _ = _choice(reply)
    found = choice.get("logprobs")
    top = found.get("top_logprobs") if isinstance(found, dict) else None
    first = top[0] if isinstance(top, list) and top else None
    if not isinstance(first, dict) or not are_logprobs(list(first.values())):
        return {}
    return first


def _choice(reply: HttpReply) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the only choice of a completion, and the whole. Raises EndpointError without one."""
    data = reply.json()
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
    if not isinstance(choice, dict):
        raise EndpointError("unreadable", "not a completion")
    return choice, data


async def longest_context(endpoint: Endpoint) -> int | None:
    """Ask a server how long prompt plus response of its model may be; None if it does not tell.

    Raises UserError if it cannot be asked, or has no such model.
    """
    name, where = endpoint.config.model, shown_url(endpoint.config.url)
    try:
        data = (await endpoint.post(MODELS, None, HttpReply.json)).get("data")
    except EndpointError as error:
        if error.status == 404:  # a server without this route
            return None
        raise UserError(f"the server at {where} cannot be asked: {error}") from None
    models = {
        str(model.get("id")): model.get("max_model_len")
        for model in (data if isinstance(data, list) else [])
        if isinstance(model, dict)
    }
    if models and name not in models:
        raise UserError(
            f"the server at {where} has no model '{name}'; {nearest(name, list(models))}"
        )
    limit = models.get(name)
    return limit if isinstance(limit, int) and limit > 1 else None


def connect(
    endpoint: Endpoint, max_context: int | None, capabilities: Capabilities = CAN
) -> OpenAIEngine:
    """Make an engine whose context is as long as the server allows, or shorter where that is said.

    Raises UserError if the server cannot be asked, or nobody knows the limit.
    """
    limit = asyncio.run(longest_context(endpoint))
    limits = [n for n in (max_context, None if limit is None else limit - 1) if n is not None]
    if not limits:
        raise UserError("the server does not tell how long a context may be: say max_context")
    return OpenAIEngine(endpoint, min(limits), capabilities)


class OpenAIEngineConfig(EngineConfig):
    """Generate on a server that takes token ids and tells log-probabilities, as vLLM does.

    It takes no weights: it plays and scores with the model that it was started with.
    """

    name: Literal["openai"] = "openai"
    endpoint: EndpointConfig = Field(description="the server: url, model, and limits")
    scores: bool = Field(
        True, description="the server tells the log-probabilities of prompts (prompt_logprobs)"
    )

    @property
    def capabilities(self) -> Capabilities:
        """Declare scores, if the server tells them."""
        return Capabilities(scores=self.scores)

    def make(self, loaded: Loaded, max_context: int | None) -> Engine:
        """Ask the server how long a context may be; the loaded model is not looked at.

        Raises UserError if the server cannot be asked, or nobody knows the limit.
        """
        at_once = min(self.max_batch, self.endpoint.concurrency)
        endpoint = Endpoint(self.endpoint.model_copy(update={"concurrency": at_once}), "engine")
        return connect(endpoint, max_context, self.capabilities)
