"""VllmEngine: plays on a vLLM server of its own, which is given the weights after every step.

::

    engine = VllmEngine(VllmEngineConfig(), loaded, max_context=1024)   # starts the server
    await engine.push(model.state_dict(), version=1)

A push waits for the responses that are being sampled, and new ones wait for it: no response is of
two versions. Where the server is lost it is started again with the weights of the last push, and
what was asked of it is asked again: with its own seed each request is answered as it would have
been.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ....foundation.errors import RunFailed, UserError
from ...episode import FinishReason
from ...teachers.endpoint import Endpoint
from ...teachers.endpoint_config import EndpointConfig, EndpointError
from ...teachers.reply import HttpReply
from ..base import Completion, EngineError, Sampling
from ..openai import OpenAIEngine, longest_context, read_completion, sampled
from ..torch.sampling import StopText, finish_reason
from .push_gate import PushGate
from .server import MODEL, Server, servable
from .shelf import Shelf

if TYPE_CHECKING:
    from torch import Tensor

    from ...models.load import Loaded
    from . import VllmEngineConfig

logger = logging.getLogger(__name__)

T = TypeVar("T")

TESTED = "0.32.0"
"""The version of vLLM that all of this was tried with."""
_ASKED = "turnrl"
"""The key among a request's ``vllm_xargs`` by which it is sampled by turnrl's rule."""
_RULE = ("temperature", "top_p", "top_k", "min_tokens", "stop_token_ids", "seed")
_RESET = "/reset_prefix_cache?reset_running_requests=true"
"""Forgets what is cached; also for requests that were given up and still run."""
_TRIES = 3
"""How often a request is sent at most, each time to another server."""
_HEALTH = 10.0
"""Seconds after which a server that says nothing about its health has none."""


class VllmEngine(OpenAIEngine):
    """Plays and scores on a vLLM server on this machine.

    Args:
        config: how the server is started, or where it runs.
        loaded: the trainer's model; LoRA adapters are merged into what the server gets.
        max_context: longest prompt plus response, in tokens.

    Raises UserError where no server can be had.
    """

    def __init__(self, config: VllmEngineConfig, loaded: Loaded, max_context: int) -> None:
        self.config = config
        self._model = loaded.model
        self._dtype = config.dtype
        """The type that the server computes in."""
        self._stop_text = StopText(loaded.tokenizer)
        self._gates: dict[asyncio.AbstractEventLoop, PushGate] = {}
        self._under_way, self._since = 0, 0.0
        self._process: int | None = None
        self._lost: RunFailed | None = None
        self.server: Server | None = None
        """The server that was started here; None for one that was given."""
        self._shelf = Shelf(loaded)
        try:
            if config.url is None:
                servable(loaded.model.config)
                self.server = Server(config, self._shelf.folder, max_context)
                self.server.start(self._shelf.current)
            self._control = self._endpoint("")
            super().__init__(self._endpoint("/v1"), max_context, config.capabilities)
            # In a thread of its own: an engine may be made where an event loop runs.
            with ThreadPoolExecutor(1) as alone:
                alone.submit(asyncio.run, self._meet()).result()
        except BaseException:
            self._end()
            raise

    @property
    def full_precision(self) -> bool:
        """Tell whether the model's weights are float32 and the server computes in it."""
        weights = {str(parameter.dtype) for parameter in self._model.parameters()}
        return self._dtype == "float32" and weights <= {"torch.float32"}

    async def aclose(self) -> None:
        """Close every conversation, end the server, and remove what was written for it."""
        await super().aclose()
        await asyncio.to_thread(self._end)

    # -- hooks of the engine -----------------------------------------------------------------------

    async def _generate(
        self, conversation: str, prompt: Sequence[int], sampling: Sampling
    ) -> Completion:
        return await self._of(conversation, self._sampled(prompt, sampling))

    async def _sampled(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        """Sample a response, in one request or more.

        vLLM looks for stop strings in another text than the torch engine, which may begin with the
        last characters of the prompt. A response that it ended for one that is not there goes on.
        """
        most = min(sampling.max_tokens, self.max_context - len(prompt))
        ids: list[int] = []
        logprobs: list[float] = []
        version: int | None = None
        while True:
            more = await self._more([*prompt, *ids], sampling, len(ids), most)
            version = more.version if version is None else version
            known = len(ids)
            ids += more.token_ids
            logprobs += more.logprobs
            count: int = len(ids)
            reason: FinishReason | None = more.finish_reason
            if sampling.stop:
                count, reason = self._ended(ids, known, sampling)
                reason = reason or ("length" if count == most else None)
            if reason is not None:
                return Completion(ids[:count], logprobs[:count], reason, version)

    def _ended(
        self, ids: list[int], known: int, sampling: Sampling
    ) -> tuple[int, FinishReason | None]:
        """Find where and why a response ends, of which `known` tokens do not end it.

        One that goes on ends at its last token, for no reason.
        """
        for count in range(known + 1, len(ids) + 1):
            reason = finish_reason(ids[:count], sampling, self._stop_text)
            if reason is not None:
                return count, reason
        return len(ids), None

    async def _more(
        self, prompt: Sequence[int], sampling: Sampling, drawn: int, most: int
    ) -> Completion:
        """Sample up to `most` tokens of a response, of which so many stand in the prompt."""
        tokens = most - drawn
        body = sampled(prompt, Sampling(stop_token_ids=sampling.stop_token_ids), tokens)
        # The rule has the seed: vLLM's own generators cannot be put back on a processor.
        del body["seed"]
        rule = {name: getattr(sampling, name) for name in _RULE} | {"drawn": drawn}
        body |= {"logprobs": 0, "vllm_xargs": {_ASKED: json.dumps(rule)}}
        if not sampling.min_tokens:  # before the minimum a stop string does not count
            body["stop"] = list(sampling.stop)

        def read(reply: HttpReply) -> tuple[Completion, int]:
            completion, cached = read_completion(reply, prompt, tokens)
            completion.version = self.version  # no push while a request is under way
            return completion, cached

        completion, cached = await self._ask(body, read)
        self.stats.cached_tokens += cached
        self.stats.prompt_tokens += len(prompt) - cached
        self.stats.generated_tokens += len(completion.token_ids)
        return completion

    async def _push(self, weights: Mapping[str, Tensor], version: int) -> None:
        async with self._gate().alone():
            folder = await asyncio.to_thread(self._shelf.put, weights)
            try:
                taken = await self._call("turnrl_push", str(folder))
                reset = await self._control.post(_RESET, b"{}", HttpReply.json)
            except EndpointError as error:
                try:
                    await self._recover(error)  # what comes up has these weights
                except EngineError:
                    raise RunFailed(f"vLLM's server did not take the weights: {error}") from None
            else:
                self._check_push(taken, reset)

    # -- the server --------------------------------------------------------------------------------

    async def _ask(self, body: dict[str, Any], read: Callable[[HttpReply], T]) -> T:
        """Send a request and read its reply; again, to a fresh server, where that one is lost."""
        gate = self._gate()
        async with gate.one_of_many(), self._busy():
            for _ in range(_TRIES):
                starts = self._starts
                try:
                    return await super()._ask(body, read)
                except EngineError as error:
                    async with gate.lock:
                        if self._starts == starts:
                            await self._recover(error.__cause__ or error)
        raise EngineError(f"vLLM's server was lost {_TRIES} times during a request")

    @asynccontextmanager
    async def _busy(self) -> AsyncIterator[None]:
        """Count the time in which at least one request is under way."""
        if not self._under_way:
            self._since = time.perf_counter()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self.stats.busy_seconds += time.perf_counter() - self._since

    @property
    def _where(self) -> str:
        return "vLLM's server" if self.server else f"the vLLM server at {self.config.url}"

    @property
    def _starts(self) -> int:
        return 0 if self.server is None else self.server.starts

    async def _recover(self, error: BaseException) -> None:
        """Start the server again with the weights of the last push.

        Raises:
            EngineError: it is well: what was asked of it failed for another reason.
            RunFailed: it cannot be started again.
        """
        hangs = isinstance(error, EndpointError) and error.kind == "timeout"
        if not hangs and await self._is_well():
            raise EngineError(str(error)) from error
        if self.server is None:
            raise RunFailed(
                f"{self._where} does not answer any more ({error}); a server"
                " that was given is not started again: start it, and go on with --resume"
            )
        if self._lost is not None:
            raise self._lost
        why = "it gave no answer" if self.server.runs else self.server.why()
        if self.server.starts > self.config.restarts:
            raise self._gave_up(
                f"vLLM's server was lost {self.server.starts} times (engine.restarts allows"
                f" {self.config.restarts}), the last time because: {why}"
            )
        logger.warning("vLLM's server is lost (%s): it is started again", why)
        try:
            await asyncio.to_thread(self.server.start, self._shelf.current)
        except UserError as failed:
            raise self._gave_up(f"vLLM's server cannot be started again: {failed}") from None
        largest = self.endpoint.largest
        self.endpoint, self._control = self._endpoint("/v1"), self._endpoint("")
        self.endpoint.largest = largest
        await self._meet()

    def _gave_up(self, why: str) -> RunFailed:
        """Make the failure that every request meets from now on."""
        self._lost = RunFailed(why)
        return self._lost

    async def _is_well(self) -> bool:
        if self.server is not None and not self.server.runs:
            return False
        try:
            async with asyncio.timeout(_HEALTH):
                await self._control.post("/health", None, lambda reply: None)
        except (EndpointError, TimeoutError):
            return False
        return True

    async def _meet(self) -> None:
        """Ask the server what it is. Raises UserError if it cannot be trained with."""
        if self.server is None:
            limit = await longest_context(self.endpoint)
            if limit is not None and limit <= self.max_context:
                raise UserError(
                    f"{self._where} holds {limit} tokens, and a context of"
                    f" {self.max_context} needs one more: start it with --max-model-len"
                    f" {self.max_context + 1}"
                )
        try:
            about = await self._call("turnrl_about")
        except EndpointError as error:
            raise UserError(
                f"{self._where} takes no weights from turnrl ({error}):"
                " docs/engines.md says how it is started"
            ) from None
        if about["device"] != "cpu":
            raise UserError(
                f"{self._where} computes on '{about['device']}': weights are"
                " pushed to servers on a CPU alone so far; the engine openai plays on it"
            )
        if about["vllm"] != TESTED and self._process is None:
            logger.warning("vLLM %s is not the one this was tested with, %s", about["vllm"], TESTED)
        self._dtype, self._process = about["dtype"], about["process"]

    def _check_push(self, taken: dict[str, Any], reset: dict[str, Any]) -> None:
        """Raise RunFailed where weights are missing, another process took them, or caches stay."""
        if taken["missing"]:
            raise RunFailed(
                f"vLLM has weights that a push does not bring, such as {taken['missing']}: this"
                " model cannot be trained with it; use the engine torch"
            )
        if taken["process"] != self._process:
            raise RunFailed(
                f"{self._where} was started anew since the last push, so"
                " that what was played in between was not played with those weights: go on with"
                " --resume"
            )
        if not reset.get("success"):
            raise RunFailed("vLLM's server keeps caches that were computed with older weights")

    async def _call(self, method: str, *arguments: str) -> dict[str, Any]:
        """Call a method of the server's worker. Raises EndpointError if that fails."""
        body = json.dumps({"method": method, "args": arguments}).encode()

        def read(reply: HttpReply) -> dict[str, Any]:
            results = reply.json().get("results")
            if not isinstance(results, list) or not results or not isinstance(results[0], dict):
                raise EndpointError("unreadable", f"{method} returned {reply.text[:200]!r}")
            return results[0]

        return await self._control.post("/collective_rpc", body, read)

    def _endpoint(self, path: str) -> Endpoint:
        config = EndpointConfig(
            url=f"{self.config.url or 'http://vllm'}{path}",
            model=MODEL,
            api_key_env="TURNRL_VLLM_KEY",
            timeout=self.config.answer_seconds,
            retries=0,
            concurrency=self.config.max_batch,
        )
        socket = None if self.server is None else str(self.server.socket)
        return Endpoint(config, "engine", socket=socket)

    def _gate(self) -> PushGate:
        """Return the gate of the running event loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._gates:
            self._gates = {loop: PushGate()}
        return self._gates[loop]

    def _end(self) -> None:
        if self.server is not None:
            self.server.end()
        self._shelf.close()
