"""Processes: the backend of the pool that plays in worker processes, with a socket to each.

The parent runs no thread and no task per step: replies are read by `loop.add_reader`, requests of
one loop iteration go out together, and one timer watches the request at the head of every worker.
Workers start when there is an episode for them. A worker that dies or whose head request is late
takes its episodes with it and nothing else; a retired one (too many episodes, too much memory)
finishes its episodes first.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...foundation.errors import RunFailed, UserError
from ..task import Task
from .messages import CLOSED, Fault, Reply, Status
from .worker_process import WorkerProcess, sweep_folders

_START_ATTEMPTS = 3
"""Starts in a row that may fail before nothing is expected of further ones."""
_KILLED_ATTEMPTS = 10
"""The same where they were killed from outside, which says nothing about the world, or where others
have started.
"""


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerStartError(RunFailed):
    """Worker processes die while they start, again and again; the message has their last words."""


@dataclass
class ProcessSeat:
    """The place of one episode: its id and the worker process that it plays in."""

    episode_id: int
    worker: WorkerProcess | None = None


class Processes:
    """A backend of at most `workers` worker processes for `slots` concurrent episodes.

    See `EnvPool` for the arguments.
    """

    def __init__(
        self,
        *,
        workers: int | None,
        slots: int,
        start_limit: float,
        recycle_episodes: int,
        max_memory_mb: int | None,
        options: Mapping[str, Any],
        imports: Sequence[str],
        stats: dict[str, int],
    ) -> None:
        if sys.platform == "win32":
            raise UserError("EnvPool(backend='process') needs Linux or macOS: use backend='thread'")
        self.size = min(workers or cores(), slots)
        self.start_limit, self.recycle_episodes, self.max_memory_mb = (
            start_limit,
            recycle_episodes,
            max_memory_mb,
        )
        names = [os.path.abspath(name) if name.endswith(".py") else name for name in imports]
        self.setup = {
            "imports": names,
            "options": dict(options),
            "idle": math.ceil(slots / self.size),
        }
        self.stats = stats
        sweep_folders()
        self.loop: asyncio.AbstractEventLoop
        self._workers: list[WorkerProcess] = []
        self._leaving: set[WorkerProcess] = set()
        self._pid = os.getpid()
        self._failed_starts, self._any_started = 0, False
        self._broken: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve this event loop from now on; what an earlier loop still waited for is dropped."""
        for worker in self._workers:
            if not self.loop.is_closed():
                self.loop.remove_reader(worker.link)
                self.loop.remove_writer(worker.link)
            # A reply that is still to come needs its place in line, and nobody waits for it.
            dropped = loop.create_future()
            dropped.cancel()
            worker.pending = deque((future and dropped, limit) for future, limit in worker.pending)
            worker.active = 0
            loop.add_reader(worker.link, worker.read)
        self.loop, self._timer = loop, None
        for worker in self._workers:
            loop.call_soon(worker.flush)

    def sit(self, episode_id: int) -> ProcessSeat:
        """Give an episode its place; the worker is chosen when it starts."""
        return ProcessSeat(episode_id)

    async def ask(
        self, seat: ProcessSeat, op: str, argument: str | Task | None, limit: float
    ) -> Reply:
        """Send an episode's request to its worker process and return the reply.

        A worker that dies while it starts is replaced here, unseen by the episode.
        """
        while True:
            if seat.worker is None:
                if self._broken is not None:
                    raise type(self._broken)(str(self._broken))
                seat.worker = self._pick()
            if seat.worker.dead:
                return "error", Fault("died", "the worker process of this episode died")
            future: asyncio.Future[Reply] = self.loop.create_future()
            seat.worker.send(future, limit, (op, seat.episode_id, argument))
            self._watch_soon()
            status, value = await future
            if status != "startup":
                return status, value
            seat.worker = None

    def leave(self, seat: ProcessSeat) -> None:
        """Take back the place of an episode that is over."""
        worker = seat.worker
        if worker is None or worker.dead:
            return
        worker.active -= 1
        worker.send(None, None, ("end", seat.episode_id, None))
        if worker.retiring and worker.active <= 0:
            self._workers.remove(worker)
            self.stats["recycled"] += 1
            worker.flush()
            worker.detach()
            self._leaving.add(worker)
            self.loop.run_in_executor(None, self._see_off, worker)

    def _see_off(self, worker: WorkerProcess) -> None:
        worker.reap(6.0)
        self._leaving.discard(worker)

    def _pick(self) -> WorkerProcess:
        """Choose the least busy worker, or a new one while there may be more."""
        open_ = [worker for worker in self._workers if not worker.retiring]
        best = min(open_, key=lambda worker: worker.active, default=None)
        if best is None or (best.active > 0 and len(open_) < self.size):
            best = WorkerProcess(self)
            self._workers.append(best)
        best.active += 1
        best.episodes += 1
        best.retiring = best.retiring or best.episodes >= self.recycle_episodes
        return best

    # -- faults ------------------------------------------------------------------------------------

    def started(self, worker: WorkerProcess, reply: Reply) -> None:
        """Take the first message of a worker: hello, or that it cannot import what was named."""
        if reply[0] == "ok":
            worker.ready = self._any_started = True
            self._failed_starts = 0
        else:
            self._broken = UserError(reply[1])
            self.lost(worker)

    def lost(self, worker: WorkerProcess, late: bool = False) -> None:
        """End a worker that died, or whose head request is `late`, and tell its episodes."""
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        worker.detach()
        worker.reap(0.0)
        words, last = worker.child.last_words(), worker.child.last_line()
        self.stats["restarts"] += 1
        if not worker.ready:
            self._failed_starts += 1
            # A negative code is a signal from outside, which another start may not meet.
            by_itself = late or (worker.child.process.returncode or 0) >= 0
            lasting = by_itself and not self._any_started
            attempts = _START_ATTEMPTS if lasting else _KILLED_ATTEMPTS
            if self._failed_starts >= attempts and self._broken is None:
                self._broken = WorkerStartError(
                    f"worker processes cannot start ({attempts} attempts): {words}"
                )
        # A worker answers in order: only the first request was late, the others waited behind it.
        for index, (future, limit) in enumerate(worker.pending):
            status: Status = "error" if worker.ready else "startup"
            fault = Fault(
                "died",
                f"the worker process of this episode died: {last}",
                words if last != words else "",
            )
            if late and worker.ready:
                status = "timeout" if index == 0 else "error"
                fault = Fault("timeout", f"no answer within {limit:g} s")
                if index:
                    fault = Fault("beside", "another episode hung in the same worker")
            if future is not None and not future.done():
                future.set_result((status, fault))
        worker.pending.clear()

    def _watch_soon(self) -> None:
        if self._timer is None:
            shortest = min(
                (worker.pending[0][1] for worker in self._workers if worker.pending), default=1.0
            )
            # One timer for all requests; it looks about ten times within the shortest limit.
            self._timer = self.loop.call_later(min(1.0, max(0.02, shortest / 10)), self._watch)

    def _watch(self) -> None:
        self._timer = None
        for worker in list(self._workers):
            # What has arrived while the loop was busy counts as in time.
            if self._is_late(worker):
                worker.read()
                if self._is_late(worker):
                    self.lost(worker, late=True)
        if any(worker.pending for worker in self._workers):
            self._watch_soon()

    @staticmethod
    def _is_late(worker: WorkerProcess) -> bool:
        return bool(worker.pending) and time.monotonic() - worker.head_since > worker.pending[0][1]

    # -- the end -----------------------------------------------------------------------------------

    def detach(self) -> list[WorkerProcess]:
        """Stop serving episodes: pending requests fail, sockets close.

        Returns the workers that `reap` must see off.
        """
        workers, self._workers = self._workers, []
        self._broken = RuntimeError("this pool is closed")
        if self._timer is not None:
            self._timer.cancel()
        for worker in workers:
            worker.detach()
            for future, _ in worker.pending:
                if future is not None and not future.done() and not self.loop.is_closed():
                    future.set_result(("error", CLOSED))
            worker.pending.clear()
        return [*workers, *self._leaving]

    @staticmethod
    def reap(workers: Sequence[WorkerProcess]) -> None:
        """Wait for the processes of detached workers, kill those that stay, remove their files."""
        deadline = time.monotonic() + 3.0
        for worker in workers:
            worker.reap(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Stop serving and see the workers off, but not in a forked child: its parent plays on."""
        if os.getpid() == self._pid:
            self.reap(self.detach())
