"""The thread backend of the pool: instances in this process, calls in daemon threads.

Python runs one thread at a time, so threads buy no speed for pure Python worlds; they keep the
event loop free while a world computes or waits. A call that takes too long is abandoned together
with its thread and its instance: nothing can stop a thread, and daemon threads at least do not keep
the interpreter from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from .. import closing
from ..core import TextEnv
from ..registry import import_worlds
from ..task import Task
from .instances import InstancePool, answer, leave_copy
from .messages import CLOSED, Fault, Reply

logger = logging.getLogger(__name__)


@dataclass
class ThreadCall:
    """One request on its way through a thread."""

    op: str
    episode_id: int
    argument: str | Task | None
    limit: float
    future: asyncio.Future[Reply]
    started: float | None = None
    finished: bool = False
    orphaned: bool = False
    """Nobody waits for it any more: the instance goes when it returns."""
    abandoned: bool = False
    """It took too long and its thread was replaced: the thread ends when it returns."""


@dataclass
class ThreadSeat:
    """The place of one episode and the call it waits for."""

    episode_id: int
    call: ThreadCall | None = None


class Threads:
    """`workers` daemon threads playing on one `InstancePool`. See `EnvPool` for the arguments."""

    def __init__(
        self,
        *,
        workers: int | None,
        slots: int,
        options: Mapping[str, Any],
        imports: Sequence[str],
        stats: dict[str, int],
    ) -> None:
        import_worlds(*imports)
        self.loop: asyncio.AbstractEventLoop
        self.stats = stats
        self._instances = InstancePool(options, idle=slots, threaded=True, closer=self._close)
        self._closing: list[threading.Thread] = []
        self._calls: SimpleQueue[ThreadCall | None] = SimpleQueue()
        self._open: dict[int, ThreadCall] = {}
        self._size = min(workers or 16, slots)
        self._threads = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve this event loop from now on."""
        self.loop, self._timer, self._open = loop, None, {}

    def sit(self, episode_id: int) -> ThreadSeat:
        """Give an episode its place."""
        return ThreadSeat(episode_id)

    async def ask(
        self, seat: ThreadSeat, op: str, argument: str | Task | None, limit: float
    ) -> Reply:
        """Have a request answered by the first free thread; the time limit counts from there."""
        if self._closed:
            raise RuntimeError("this pool is closed")
        call = seat.call = ThreadCall(
            op, seat.episode_id, argument, limit, self.loop.create_future()
        )
        self._open[id(call)] = call
        if self._threads < min(self._size, len(self._open)):
            self._add_thread()
        self._calls.put(call)
        self._watch_soon()
        return await call.future

    def leave(self, seat: ThreadSeat) -> None:
        """End an episode; its instance is reused unless a call is still running in it."""
        call = seat.call
        if call is None or call.finished:
            self._instances.release(seat.episode_id)
        else:
            call.orphaned = True
            self._instances.discard(seat.episode_id)

    def _close(self, envs: Sequence[TextEnv]) -> None:
        """Close worlds beside what goes on: one that hangs must not hold the event loop."""
        thread = closing.close_aside(envs)
        if thread is not None:
            self._closing = [*(each for each in self._closing if each.is_alive()), thread]

    def _add_thread(self) -> None:
        self._threads += 1
        threading.Thread(
            target=_work, args=(self._calls, self._instances, self._hand_over), daemon=True
        ).start()

    def _hand_over(self, call: ThreadCall, reply: Reply) -> None:
        """Hand a reply from a thread to the event loop."""
        # The loop may have gone while the world was busy; nobody waits then.
        with contextlib.suppress(RuntimeError):
            call.future.get_loop().call_soon_threadsafe(self._settle, call, reply)

    def _settle(self, call: ThreadCall, reply: Reply) -> None:
        self._open.pop(id(call), None)
        if not call.future.done():
            call.future.set_result(reply)

    def _watch_soon(self) -> None:
        if self._timer is None:
            shortest = min((call.limit for call in self._open.values()), default=1.0)
            # One timer for all calls; it looks about ten times within the shortest limit.
            self._timer = self.loop.call_later(min(1.0, max(0.02, shortest / 10)), self._watch)

    def _watch(self) -> None:
        self._timer = None
        now = time.monotonic()
        for call in list(self._open.values()):
            if call.started is not None and not call.finished and now - call.started > call.limit:
                call.abandoned = call.orphaned = True
                self._instances.discard(call.episode_id)
                self._threads -= 1
                self._add_thread()
                self.stats["restarts"] += 1
                self._settle(
                    call, ("timeout", Fault("timeout", f"no answer within {call.limit:g} s"))
                )
        if self._open:
            self._watch_soon()

    def detach(self) -> list[Any]:
        """Stop serving episodes: pending requests fail, idle threads end."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        busy = any(not call.finished for call in self._open.values())
        for call in list(self._open.values()):
            call.orphaned = True
            if not self.loop.is_closed():
                self._settle(call, ("error", CLOSED))
        for _ in range(self._threads):
            self._calls.put(None)
        if not busy:
            self._instances.close()
        return []

    def reap(self, workers: Sequence[Any]) -> None:
        """Wait for the worlds that are being closed.

        Those that take too long are left with a warning. Blocks.
        """
        deadline = time.monotonic() + closing.LIMIT
        for thread in self._closing:
            thread.join(max(0.0, deadline - time.monotonic()))
        stuck = sum(thread.is_alive() for thread in self._closing)
        if stuck:
            logger.warning("close() of a world has not ended after %g s: it is left", closing.LIMIT)
        self._closing.clear()

    def close(self) -> None:
        """Stop serving and wait for the worlds that are being closed."""
        self.reap(self.detach())


def _work(calls: SimpleQueue[ThreadCall | None], instances: InstancePool, done: Any) -> None:
    pid = os.getpid()
    while (call := calls.get()) is not None:
        if call.future.cancelled() or call.orphaned:
            call.finished = True
            instances.discard(call.episode_id)
            done(call, ("error", CLOSED))
            continue
        call.started = time.monotonic()
        reply = answer(instances, call.op, call.episode_id, call.argument)
        leave_copy(pid)
        call.finished = True
        if call.orphaned:
            instances.discard(call.episode_id)
        done(call, reply)
        if call.abandoned:
            return
