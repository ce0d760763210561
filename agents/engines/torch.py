"""TorchEngine: the embedded engine; it shares the trainer's module, keeps caches across turns,
batches continuously.

::

    engine = TorchEngine(model, tokenizer); engine.open("a")
    completion = await engine.generate(ids, Sampling(max_tokens=16), session="a")

One task on the running event loop alternates between *admission* (encode what is new in the prompts
of waiting requests, sample their first tokens) and *decoding* (one token for every running row).
Rows leave as they finish.

**Quiescence.** A session that was opened and has no request is *away* (in its environment). Before
a forward pass whose batch could depend on whether they come back, the engine waits for all of them,
or for `patience_ms`. Requests are then taken in the order of (turns played, session name), so with
unlimited patience the batches, and so every bit of the results, depend on neither thread timing nor
the speed of environments, as long as sessions are opened before the first request and nothing else
asks. A request without a session waits for nobody, and nobody waits while one is pending.

**Admission rule.** Waiting requests are admitted when nothing is decoding, or when they are at
least `ADMIT_SHARE` times as many as the rows that are. Decoding goes on without waiting while too
few sessions are away to reach it. The share matters little (between 0 and infinity CPU time varies
by a tenth) unless newcomers come one by one; below one, environments run while the rest decodes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...foundation.errors import UserError
from ..models.kv_cache import Slot, SlotCache
from ..models.model_check import check_model, context_of
from .base import Completion, ContextOverflow, EngineError, EngineStats, Sampling
from .pending import Pending, groups_of, slot_of
from .sampling import SamplingBatch, StopText, finish_reason, token_logprobs

ADMIT_SHARE = 0.5


class TorchEngine:
    """Serves a Hugging Face causal model with full attention from the module the trainer updates.

    Args:
        model: the module; its weights are never copied, its training mode is left as it is.
        tokenizer: decodes responses to look for stop strings; None if none are used.
        max_batch: most rows in one decode step.
        max_context: longest prompt plus response, in tokens; None is as many positions as the model
            encodes alike in every batch: its `max_position_embeddings`, or less (see `positions`).
        patience_ms: how long a forward pass waits for sessions that are away, in milliseconds; None
            is for ever.
        dtype: autocast type of the forward passes; None computes in the type of the parameters.
        max_cached_tokens: above this, caches of sessions that are away are dropped, least recently
            used first, and encoded again when the session comes back.

    Raises:
        UserError: if the model keeps another state than keys and values (state-space,
            sliding-window models), or max_context is longer than what it encodes alike.
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
        max_cached_tokens: int = 262_144,
    ) -> None:
        self.stats = EngineStats()
        self.version = 0
        self.max_batch, self.patience_ms, self.max_cached_tokens = (
            max_batch,
            patience_ms,
            max_cached_tokens,
        )
        self._cache = SlotCache(model, dtype)
        self.max_context: int = context_of(self._cache, max_context)
        check_model(self._cache, self.max_context)
        self._stop_text = None if tokenizer is None else StopText(tokenizer)
        self._live: dict[str, None] = {}
        self._sessions: dict[str, Slot] = {}
        self._turns: dict[str, int] = {}
        self._waiting: list[Pending] = []
        self._running: list[Pending] = []
        self._sampling: SamplingBatch | None = None
        self._arrivals = 0
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()

    # -- the Engine protocol -----------------------------------------------------------------------

    @property
    def full_precision(self) -> bool:
        """Whether weights and forward passes are float32."""
        weights = {parameter.dtype for parameter in self._cache.model.parameters()}
        return weights <= {torch.float32} and self._cache.dtype in (None, torch.float32)

    def open(self, session: str) -> None:
        """Announce a conversation: forward passes wait for its requests until it is closed."""
        self._live[session] = None

    def park(self, session: str) -> None:
        """Wait for this conversation no longer; its cache stays until it is closed or evicted."""
        self._live.pop(session, None)
        self._wake.set()

    def close(self, session: str) -> None:
        """Forget a conversation and free its cache; a pending request of it fails with EngineError."""
        self.park(session)
        self._turns.pop(session, None)
        rows = [row for row in self._waiting + self._running if row.session == session]
        self._fail(
            rows, EngineError(f"session '{session}' was closed while its request was pending")
        )
        if (slot := self._sessions.pop(session, None)) is not None:
            self._cache.release(slot)

    async def generate(
        self, prompt: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        """Sample a response to `prompt`; at the end of the context it ends with finish reason
        'length'.

        Raises:
            ContextOverflow: if the prompt leaves no room for a token.
            EngineError: if the forward pass failed or the session was closed.
            UserError: if there are stop strings and the engine has no tokenizer.
        """
        if len(prompt) + 1 > self.max_context:
            raise ContextOverflow(
                f"a prompt of {len(prompt)} tokens does not fit a context of {self.max_context}"
            )
        if sampling.stop and self._stop_text is None:
            raise UserError("stop strings need a torch engine with a tokenizer")
        if not prompt:
            raise ValueError("a prompt needs at least one token")
        self.stats.requests += 1
        completion: Completion = await self._ask(list(prompt), sampling, session, None)
        return completion

    async def score(
        self, tokens: Sequence[int], start: int, *, session: str | None = None
    ) -> list[float]:
        """Log-probabilities (nats, temperature 1) of ``tokens[start:]`` given what precedes each.

        The session's cache serves the common prefix and keeps nothing else of `tokens` afterwards.

        Raises:
            ContextOverflow: if `tokens` is longer than the context.
            EngineError: if the forward pass failed or the session was closed.
            ValueError: if `start` is 0 or beyond the end.
        """
        if not 1 <= start <= len(tokens):
            raise ValueError(f"start must be in 1..{len(tokens)}, not {start}")
        if len(tokens) > self.max_context:
            raise ContextOverflow(
                f"{len(tokens)} tokens do not fit a context of {self.max_context}"
            )
        if start == len(tokens):
            return []
        scores: list[float] = await self._ask(list(tokens), Sampling(), session, start)
        return scores

    async def push(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Use these weights from now on.

        The module's own tensors are not copied; all caches are dropped, and responses that are
        being sampled go on with the new weights (their `Completion.version` stays that of their
        first token).

        Raises:
            ValueError: for a name the module does not have.
        """
        own = self._cache.model.state_dict(keep_vars=True)
        with torch.no_grad():
            for name, tensor in weights.items():
                if name not in own:
                    raise ValueError(f"the model has no weight called '{name}'")
                if own[name].data_ptr() != tensor.data_ptr() or own[name].device != tensor.device:
                    own[name].copy_(tensor)
        self.version = version
        self._cache.refresh()
        self._waiting = self._running + self._waiting
        self._running = []
        self._sampling = None

    async def _ask(
        self, prompt: list[int], sampling: Sampling, session: str | None, start: int | None
    ) -> Any:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._wake, self._task = loop, asyncio.Event(), None
            self._drop(self._waiting + self._running)
        self._arrivals += 1
        row = Pending(prompt, sampling, session, start, loop.create_future(), self._arrivals)
        self._waiting.append(row)
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._serve())
        try:
            return await row.future
        except asyncio.CancelledError:
            self._wake.set()
            raise

    def _drop(self, rows: Iterable[Pending]) -> None:
        """Take rows out of the engine; the caches of sessions stay."""
        for row in list(rows):
            if row in self._running:
                self._running.remove(row)
                self._sampling = None
            if row in self._waiting:
                self._waiting.remove(row)
            if row.session is None and row.slot is not None:
                self._cache.release(row.slot)
            row.slot = None

    def _fail(self, rows: Iterable[Pending], error: Exception) -> None:
        for row in list(rows):
            self._drop([row])
            if not row.future.done():
                row.future.set_exception(error)

    def _finish(self, row: Pending, result: Any) -> None:
        self._drop([row])
        row.future.set_result(result)

    # -- scheduling --------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Run forward passes until no request is left."""
        blocked_since: float | None = None
        try:
            while True:
                self._drop([row for row in self._waiting + self._running if row.future.done()])
                if not (self._waiting or self._running):
                    return
                now = time.monotonic()
                waited = 0 if blocked_since is None else now - blocked_since
                patience = None if self.patience_ms is None else self.patience_ms / 1000 - waited
                step = self._choose(impatient=patience is not None and patience <= 0)
                if step is not None:
                    blocked_since = None
                    step()
                    await asyncio.sleep(0)
                    continue
                blocked_since = now - waited
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), patience)
        except BaseException as error:
            self._fail(
                self._waiting + self._running,
                EngineError(f"the engine stopped: {type(error).__name__} {error}"),
            )
            raise

    def _choose(self, impatient: bool) -> Callable[[], None] | None:
        """The next forward pass, or None if it has to wait for sessions that are away."""
        alone = [row for row in self._waiting if row.session is None and row.start is not None]
        if alone:
            return lambda: self._admit(alone)
        candidates = self._candidates()
        pending = {row.session for row in self._waiting} | {row.session for row in self._running}
        away = (
            0
            if impatient or None in pending
            else sum(session not in pending for session in self._live)
        )
        if away and self._worth(len(candidates) + away):
            return None
        if self._worth(len(candidates)):
            return lambda: self._admit(candidates[: self.max_batch - len(self._running)])
        return lambda: self._guarded(list(self._running), self._decode)

    def _worth(self, waiting: int) -> bool:
        """Whether so many waiting requests are to be admitted now."""
        running = len(self._running)
        admitted = min(waiting, self.max_batch - running)
        return admitted > 0 and admitted >= ADMIT_SHARE * running

    def _candidates(self) -> list[Pending]:
        """Waiting requests that may be admitted, one per session, in their order."""
        taken = {row.session for row in self._running} - {None}
        chosen = []
        for row in sorted(
            self._waiting,
            key=lambda r: (self._turns.get(r.session or "", 0), r.session or "", r.arrival),
        ):
            if row.session is None or row.session not in taken:
                chosen.append(row)
                taken.add(row.session)
        return chosen

    def _guarded(self, rows: list[Pending], work: Callable[[], None]) -> None:
        """Do `work` for `rows`; if it raises, they fail and their caches are dropped."""
        began = time.perf_counter()
        try:
            with self._cache.inference():
                work()
        except Exception as error:
            for row in rows:
                if row.slot is not None:
                    row.slot.tokens.clear()
            failure = EngineError(f"forward pass failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._fail(rows, failure)
        finally:
            self.stats.busy_seconds += time.perf_counter() - began

    def _admit(self, rows: list[Pending]) -> None:
        """Give every row a slot, encode what is new, score or sample the first token."""
        shared: dict[Pending, int] = {}
        extra = 0
        for row in rows:
            self._waiting.remove(row)
            self._running.append(row)
            self._sampling = None
            row.slot = row.slot or (
                None if row.session is None else self._sessions.get(row.session)
            )
            if row.slot is None:
                row.slot = self._cache.take()
            if row.session is not None:
                self._sessions[row.session] = row.slot
                self._turns[row.session] = self._turns.get(row.session, 0) + 1
            if row.version is None:
                row.version = self.version
            shared[row] = row.slot.cut(row.tokens, len(row.tokens))
            kept = row.slot.cut(row.tokens, (row.start or len(row.tokens)) - 1)
            self.stats.cached_tokens += kept
            self.stats.prompt_tokens += len(row.tokens) - kept
            extra += len(row.tokens) - kept
        self._evict(extra)
        for group in groups_of(rows, self._cache.budget):
            self._guarded(group, lambda group=group: self._prefill(group, shared))  # type: ignore[misc]

    def _evict(self, extra: int) -> None:
        """Drop caches of sessions without a request until `extra` more tokens fit."""
        excess = self._cache.cached_tokens + extra - self.max_cached_tokens
        pending = {row.session for row in self._waiting + self._running}
        idle = [(slot.used, name) for name, slot in self._sessions.items() if name not in pending]
        for _, name in sorted(idle):
            if excess > 0:
                slot = self._sessions.pop(name)
                excess -= len(slot.tokens)
                self._cache.release(slot)

    def _prefill(self, rows: list[Pending], shared: dict[Pending, int]) -> None:
        slots = [slot_of(row) for row in rows]
        new = [row.tokens[len(slot.tokens) :] for row, slot in zip(rows, slots, strict=True)]
        wanted = [1 if row.start is None else len(row.tokens) - row.start + 1 for row in rows]
        before = self._cache.clock
        hidden = self._cache.extend(slots, new, wanted)
        self.stats.prefill_calls += self._cache.clock - before
        if sampled := [i for i, row in enumerate(rows) if row.start is None]:
            self._accept([rows[i] for i in sampled], torch.cat([hidden[i] for i in sampled]))
        for row, hidden_NH in zip(rows, hidden, strict=True):
            if row.start is not None:
                scores = token_logprobs(self._cache.logits, hidden_NH, row.tokens[row.start :])
                self.stats.scored_tokens += len(scores)
                del slot_of(row).tokens[shared[row] :]
                self._finish(row, scores)

    def _decode(self) -> None:
        """One token for every running row."""
        rows = self._running
        if self._sampling is None:  # the rows are not those of the previous step
            self._cache.to_front([slot_of(row) for row in rows])
            rows.sort(key=lambda row: slot_of(row).index)
            self._sampling = SamplingBatch([row.sampling for row in rows], self._cache.device)
        hidden_B1H = self._cache.encode(
            [slot_of(row) for row in rows], [row.tokens[-1:] for row in rows]
        )
        self.stats.decode_steps += 1
        self.stats.decode_slots += len(rows)
        self._accept(list(rows), hidden_B1H[:, 0], self._sampling)

    def _accept(
        self, rows: list[Pending], hidden_BH: Tensor, batch: SamplingBatch | None = None
    ) -> None:
        """Sample the next token of every row and finish those that are done."""
        batch = batch or SamplingBatch([row.sampling for row in rows], hidden_BH.device)
        ids, logprobs = batch.sample(
            self._cache.logits(hidden_BH), [len(row.token_ids) for row in rows]
        )
        self.stats.generated_tokens += len(rows)
        for row, token, logprob in zip(rows, ids, logprobs, strict=True):
            row.tokens.append(token)
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            reason = finish_reason(row.token_ids, row.sampling, self._stop_text)
            if reason is None and len(row.tokens) >= self.max_context:
                reason = "length"
            if reason is not None:
                self._finish(row, Completion(row.token_ids, row.logprobs, reason, row.version or 0))
