"""TorchEngine: the embedded engine; it shares the trainer's module, keeps caches across turns,
batches continuously.

::

    engine = TorchEngine(model, tokenizer)
    async with engine.conversation("a") as talk:
        completion = await talk.generate(ids, Sampling(max_tokens=16))

One task on the running event loop computes what the scheduler chooses, step by step. Where that is
to wait for conversations that are away, it waits until one of them asks or ends, or for
`patience_ms`. Rows of the cache leave as their responses end.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ....foundation.errors import UserError
from ...models.model_check import cache_for, context_of
from ...models.rows import CacheRow
from ...models.slots import SlotCache
from ...models.tricks import pays
from ..base import Capabilities, Completion, Engine, EngineError, Sampling
from ..scheduler import Scheduler, Step
from .ahead import Ahead
from .requests import TorchRequest, together
from .sampling import SamplingBatch, StopText, finish_reason, token_logprobs


class TorchEngine(Engine):
    """Serves a Hugging Face causal model from the module that the trainer updates.

    Args:
        model: the module; its weights are never copied, its training mode is left as it is.
        tokenizer: decodes responses to look for stop strings; None if none are used.
        max_batch: most rows in one decode step.
        max_context: longest prompt plus response, in tokens; None is as many positions as the model
            encodes alike in every batch: its `max_position_embeddings`, or less (see `positions`).
        patience_ms: how long a forward pass waits for conversations that are away, in milliseconds;
            None is for ever.
        dtype: autocast type of the forward passes; None computes in the type of the parameters.
        max_cached_tokens: above this, caches of conversations that are away are dropped, least
            recently used first, and encoded again when they come back.
        ahead: tokens that are sampled for each response before the host looks at them; None is what
            pays on the device of the model.

    Raises:
        UserError: if nothing that keeps a state between forward passes gives the model's own
            logits, or max_context is longer than what it encodes alike.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        max_batch: int = 64,
        max_context: int | None = None,
        patience_ms: float | None = None,
        dtype: torch.dtype | None = None,
        max_cached_tokens: int = 1_000_000,
        ahead: int | None = None,
    ) -> None:
        capabilities = Capabilities(
            scores=True, takes_weights=True, shares_module=True, bit_exact=patience_ms is None
        )
        super().__init__(capabilities, context_of(model, max_context))
        steps = ahead or pays(next(model.parameters()).device).ahead
        self._cache = cache_for(model, dtype, self.max_context, still=steps > 1)
        self._ahead: Ahead | None = None
        if steps > 1 and isinstance(self._cache, SlotCache):
            self._ahead = Ahead(self._cache, steps, self.max_context)
        self.patience_ms, self.max_cached_tokens = patience_ms, max_cached_tokens
        self._stop_text = None if tokenizer is None else StopText(tokenizer)
        self._scheduler: Scheduler[TorchRequest] = Scheduler(max_batch)
        self._rows: dict[str, CacheRow] = {}
        self._decoding: tuple[list[TorchRequest], SamplingBatch] | None = None
        self._arrivals = 0
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()

    @property
    def full_precision(self) -> bool:
        """Tell whether weights and forward passes are float32."""
        weights = {parameter.dtype for parameter in self._cache.model.parameters()}
        return weights <= {torch.float32} and self._cache.dtype in (None, torch.float32)

    @property
    def kept_tokens(self) -> int:
        """Count the tokens whose keys and values are stored."""
        return self._cache.cached_tokens

    # -- hooks of the engine -----------------------------------------------------------------------

    def _opened(self, conversation: str) -> None:
        self._scheduler.open(conversation)

    def _finished(self, conversation: str) -> None:
        self._scheduler.finish(conversation)
        self._wake.set()

    def _closed(self, conversation: str) -> None:
        self._scheduler.forget(conversation)
        self._wake.set()
        pending = [r for r in self._scheduler.requests if r.conversation == conversation]
        self._fail(
            pending,
            EngineError(f"conversation '{conversation}' was closed while its request was pending"),
        )
        if (row := self._rows.pop(conversation, None)) is not None:
            self._cache.release(row)

    async def _generate(
        self, conversation: str, prompt: Sequence[int], sampling: Sampling
    ) -> Completion:
        """Sample a response. Raises UserError for stop strings without a tokenizer."""
        if sampling.stop and self._stop_text is None:
            raise UserError("stop strings need a torch engine with a tokenizer")
        completion: Completion = await self._ask(conversation, prompt, sampling, None)
        return completion

    async def _score(
        self, conversation: str | None, tokens: Sequence[int], start: int
    ) -> list[float]:
        scores: list[float] = await self._ask(conversation, tokens, Sampling(), start)
        return scores

    async def _push(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Copy the weights into the module, but for those that are its own tensors.

        Responses that are being sampled are encoded again, with the new weights.
        """
        own = self._cache.model.state_dict(keep_vars=True)
        with torch.no_grad():
            for name, tensor in weights.items():
                if name not in own:
                    raise ValueError(f"the model has no weight called '{name}'")
                if own[name].data_ptr() != tensor.data_ptr() or own[name].device != tensor.device:
                    own[name].copy_(tensor)
        self._cache.refresh()
        self._scheduler.recall()
        self._decoding = None

    # -- requests ----------------------------------------------------------------------------------

    async def _ask(
        self, conversation: str | None, tokens: Sequence[int], sampling: Sampling, start: int | None
    ) -> Any:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # What an event loop before this one waited for is nobody's any more.
            self._loop, self._wake, self._task = loop, asyncio.Event(), None
            self._drop(self._scheduler.requests)
        self._arrivals += 1
        request = TorchRequest(
            conversation, self._arrivals, list(tokens), sampling, start, loop.create_future()
        )
        self._scheduler.add(request)
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._serve())
        try:
            return await request.future
        except asyncio.CancelledError:
            self._wake.set()
            raise

    def _drop(self, requests: Iterable[TorchRequest]) -> None:
        """Take requests out of the engine; the caches of conversations stay."""
        for request in requests:
            self._scheduler.drop(request)
            self._decoding = None
            if request.conversation is None and request.row is not None:
                self._cache.release(request.row)
            request.row = None

    def _fail(self, requests: Sequence[TorchRequest], error: Exception) -> None:
        self._drop(requests)
        for request in requests:
            if not request.future.done():
                request.future.set_exception(error)

    def _finish(self, request: TorchRequest, result: Any) -> None:
        self._drop([request])
        request.future.set_result(result)

    # -- execution ---------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Run forward passes until no request is left."""
        scheduler, blocked_since = self._scheduler, None
        try:
            while True:
                self._drop([r for r in scheduler.requests if r.future.done()])
                if not scheduler.requests:
                    return
                now = time.monotonic()
                waited = 0 if blocked_since is None else now - blocked_since
                patience = None if self.patience_ms is None else self.patience_ms / 1000 - waited
                step = scheduler.next_step(impatient=patience is not None and patience <= 0)
                if step is not None:
                    blocked_since = None
                    self._run(step)
                    # Who got a response may ask for the next one before a step is chosen.
                    await asyncio.sleep(0)
                    continue
                blocked_since = now - waited
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), patience)
        except BaseException as error:
            self._fail(
                scheduler.requests,
                EngineError(f"the engine stopped: {type(error).__name__} {error}"),
            )
            raise

    def _run(self, step: Step[TorchRequest]) -> None:
        if not step.admits:
            self._guarded(step.requests, partial(self._decode, step.requests))
            return
        shared = self._admit(step.requests)
        for group in together(step.requests, self._cache.budget):
            self._guarded(group, partial(self._prefill, group, shared))

    def _guarded(self, requests: list[TorchRequest], work: Callable[[], None]) -> None:
        """Do `work` for `requests`; if it raises, they fail and their caches are dropped."""
        began = time.perf_counter()
        try:
            with self._cache.inference():
                work()
        except Exception as error:
            self._cache.spoilt([r.row for r in requests if r.row is not None])
            failure = EngineError(f"forward pass failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._fail(requests, failure)
        finally:
            self.stats.busy_seconds += time.perf_counter() - began

    def _admit(self, requests: list[TorchRequest]) -> dict[TorchRequest, int]:
        """Give every request a row; returns how many of its tokens were stored there."""
        shared: dict[TorchRequest, int] = {}
        extra = 0
        self._scheduler.admit(requests)
        self._decoding = None
        for request in requests:
            name, tokens = request.conversation, request.tokens
            row = request.row or (None if name is None else self._rows.get(name))
            row = request.row = row or self._cache.take()
            if name is not None:
                self._rows[name] = row
            if request.version is None:
                request.version = self.version
            shared[request] = row.cut(tokens, len(tokens))
            # Hidden states are not kept: the token of the first one that is read is encoded again.
            kept = row.cut(tokens, (request.start or len(tokens)) - 1)
            self.stats.cached_tokens += kept
            self.stats.prompt_tokens += len(tokens) - kept
            extra += len(tokens) - kept
        self._evict(extra)
        return shared

    def _evict(self, extra: int) -> None:
        """Free caches of conversations without a request until `extra` more tokens fit."""
        excess = self._cache.cached_tokens + extra - self.max_cached_tokens
        pending = {request.conversation for request in self._scheduler.requests}
        idle = [(row.used, name) for name, row in self._rows.items() if name not in pending]
        for _, name in sorted(idle):
            if excess > 0:
                row = self._rows.pop(name)
                excess -= len(row.tokens)
                self._cache.release(row)

    def _prefill(self, requests: list[TorchRequest], shared: dict[TorchRequest, int]) -> None:
        """Encode what is new; score it, or sample the first token of each response."""
        rows = [r.admitted_row for r in requests]
        new = [r.tokens[len(row.tokens) :] for r, row in zip(requests, rows, strict=True)]
        self._know(new)
        wanted = [1 if r.start is None else len(r.tokens) - r.start + 1 for r in requests]
        before = self._cache.clock
        hidden = self._cache.extend(rows, new, wanted)
        self.stats.prefill_calls += self._cache.clock - before
        if sampled := [i for i, r in enumerate(requests) if r.start is None]:
            self._accept([requests[i] for i in sampled], torch.cat([hidden[i] for i in sampled]))
        for request, row, hidden_NH in zip(requests, rows, hidden, strict=True):
            if request.start is not None:
                targets = request.tokens[request.start :]
                scores = token_logprobs(self._cache.logits, hidden_NH, targets)
                self.stats.scored_tokens += len(scores)
                # What was scored is no part of the conversation, but for what had been before.
                row.keep(shared[request])
                self._finish(request, scores)

    def _know(self, new: Sequence[Sequence[int]]) -> None:
        """Raise IndexError for ids that the model does not know, which would end a GPU's work."""
        rows = self._cache.model.get_input_embeddings().weight.shape[0]
        if (most := max(map(max, new))) >= rows:
            raise IndexError(f"token {most}: the model has {rows}")

    def _decode(self, requests: list[TorchRequest]) -> None:
        """Sample one more token for every request, or several on the device."""
        if self._ahead is not None:
            return self._decode_ahead(self._ahead, requests)
        if self._decoding is None:  # the requests are not those of the previous step
            self._cache.to_front([r.admitted_row for r in requests])
            ordered = sorted(requests, key=lambda r: r.admitted_row.index)
            sampling = SamplingBatch([r.sampling for r in ordered], self._cache.device)
            self._decoding = ordered, sampling
        ordered, sampling = self._decoding
        hidden_B1H = self._cache.encode(
            [r.admitted_row for r in ordered], [r.tokens[-1:] for r in ordered]
        )
        self.stats.decode_steps += 1
        self.stats.decode_rows += len(ordered)
        return self._accept(ordered, hidden_B1H[:, 0], sampling)

    def _decode_ahead(self, ahead: Ahead, requests: list[TorchRequest]) -> None:
        """Sample several tokens for every request; what comes after a response's end is dropped."""
        self._cache.to_front([r.admitted_row for r in requests])
        ordered = sorted(requests, key=lambda r: r.admitted_row.index)
        sampled = ahead.decode(ordered)
        self.stats.decode_steps += max(map(len, sampled))
        self.stats.decode_rows += sum(map(len, sampled))
        for request, pairs in zip(ordered, sampled, strict=True):
            row, taken = request.admitted_row, 0
            for token, logprob in pairs:
                taken += 1
                # The row holds what was encoded in this step: the token that was sampled before.
                row.tokens.append(request.tokens[-1])
                if self._take(request, token, logprob):
                    break
            self.stats.generated_tokens += taken
            row.used = self._cache.clock

    def _accept(
        self, requests: list[TorchRequest], hidden_BH: Tensor, batch: SamplingBatch | None = None
    ) -> None:
        """Sample the next token of every request and finish those that are done."""
        batch = batch or SamplingBatch([r.sampling for r in requests], hidden_BH.device)
        ids, logprobs = batch.sample(
            self._cache.logits(hidden_BH), [len(r.token_ids) for r in requests]
        )
        self.stats.generated_tokens += len(requests)
        for sampled in zip(requests, ids, logprobs, strict=True):
            self._take(*sampled)

    def _take(self, request: TorchRequest, token: int, logprob: float) -> bool:
        """Add a token to a response; finish it, and return True, if it ends there."""
        request.tokens.append(token)
        request.token_ids.append(token)
        request.logprobs.append(logprob)
        reason = finish_reason(request.token_ids, request.sampling, self._stop_text)
        if reason is None and len(request.tokens) >= self.max_context:
            reason = "length"
        if reason is not None:
            self._finish(
                request,
                Completion(request.token_ids, request.logprobs, reason, request.version or 0),
            )
        return reason is not None
