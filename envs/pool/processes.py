"""The process backend of the pool: worker processes, one socket each, requests pipelined, replies
in order.

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
import platform
import shutil
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...foundation.errors import RunFailed, UserError
from ...foundation.processes import Child, is_alive, python
from ..task import Task
from .worker import CLOSED, MARK, Fault, Inbox, Reply, Status, end_all_of, pack

_BOOT = "from turnrl.envs.pool.worker import main; main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))"
_START_ATTEMPTS = 3
"""Starts in a row that may fail before nothing is expected of further ones."""
_KILLED_ATTEMPTS = 10
"""The same where they were killed from outside, which says nothing about the world, or where others
have started.
"""
_FOLDER = f"turnrl-worker-{platform.node()}-"
"""How the folder of a worker begins; the process that started it and something random follow."""


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def sweep() -> None:
    """Remove the folders of workers that were killed together with the process that started them."""
    for root in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        pid = root.name.removeprefix(_FOLDER).partition("-")[0]
        if pid.isdecimal() and not is_alive(int(pid)):
            shutil.rmtree(root, ignore_errors=True)


class WorkerStartError(RunFailed):
    """Worker processes die while they start, again and again; the message has the end of their
    stderr.
    """


@dataclass
class Seat:
    """The place of one episode: its number and the worker it plays in."""

    session: int
    worker: Worker | None = None


class Worker:
    """The parent's side of one worker process."""

    def __init__(self, backend: Processes) -> None:
        self.backend = backend
        self.ready = self.retiring = self.dead = False
        self.active = self.episodes = 0
        self.pending: deque[tuple[asyncio.Future[Reply] | None, float]] = deque()
        """Requests without a reply, oldest first: where the reply goes, and the time it may take in
        seconds.
        """
        self.head_since = math.inf
        """When the worker could begin with the oldest of them."""
        self._inbox, self._outbox, self._flushing = Inbox(), bytearray(), False
        self.root = tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-")
        self.link, far = socket.socketpair()
        with far:
            self.child = self._start(far.fileno())
        self.link.setblocking(False)
        backend.loop.add_reader(self.link, self.read)
        self.send(None, backend.start_limit, backend.setup)

    def _start(self, fd: int) -> Child:
        root = Path(self.root)
        for folder in ("cwd", "tmp"):
            (root / folder).mkdir()
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        return Child(
            python(_BOOT, str(fd), self.root, str(os.getpid())),
            stdout=None,
            # A fixed hash seed: worlds that iterate over sets play alike in every worker.
            environment={"PYTHONHASHSEED": "0"}
            | dict(os.environ)
            | limits
            | {"TMPDIR": str(root / "tmp"), MARK: self.root},
            folder=root / "cwd",
            pass_fds=[fd],
            # It sees for itself that its parent is gone, and removes its folder then.
            watched=False,
        )

    # -- the wire ----------------------------------------------------------------------------------

    def send(self, future: asyncio.Future[Reply] | None, limit: float | None, message: Any) -> None:
        """Queue a message; `limit` is in seconds, None for messages that get no reply."""
        self._outbox += pack(message)
        if limit is not None:
            self.pending.append((future, limit))
        if not self._flushing:
            self._flushing = True
            self.backend.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what is queued; the rest follows when the socket takes it."""
        if self.dead:
            return
        self._flushing = False
        # The clock starts here and not in send(): a busy event loop between the two is not the
        # worker's fault.
        if self.pending and self.head_since == math.inf:
            self.head_since = time.monotonic()
        try:
            del self._outbox[: self.link.send(self._outbox)]
        except BlockingIOError:
            pass
        except OSError:
            self._outbox.clear()  # it died: read() sees the end of the stream
        loop = self.backend.loop
        if self._outbox:
            self._flushing = True
            loop.add_writer(self.link, self.flush)
        else:
            loop.remove_writer(self.link)

    def read(self) -> None:
        """Take all replies that are there."""
        while not self.dead:
            try:
                data = self.link.recv(1 << 18)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.backend.lost(self)
                return
            try:
                for status, value, memory in self._inbox.feed(data):
                    self._settle((status, value), memory)
            except Exception:
                # A class that only the worker knows, an answer that nobody waits for, bytes that
                # are no message: the stream cannot be trusted any more.
                self.backend.lost(self)

    def _settle(self, reply: Reply, memory: float | None) -> None:
        future, _ = self.pending.popleft()
        self.head_since = time.monotonic() if self.pending else math.inf
        limit = self.backend.max_memory_mb
        if memory is not None and limit is not None and memory > limit:
            self.retiring = True
        if future is None:
            self.backend.started(self, reply)
        elif not future.done():
            future.set_result(reply)

    # -- the end -----------------------------------------------------------------------------------

    def detach(self) -> None:
        """Leave the event loop and close the socket, which ends the worker."""
        self.dead = True
        loop = self.backend.loop
        if not loop.is_closed():
            loop.remove_reader(self.link)
            loop.remove_writer(self.link)
        self.link.close()

    def reap(self, patience: float) -> None:
        """Wait `patience` seconds for the process, end it with all that it started, and remove its
        files.
        """
        self.child.end(patience)
        end_all_of(self.root)
        shutil.rmtree(self.root, ignore_errors=True)


class Processes:
    """At most `workers` worker processes for `slots` concurrent episodes. See `EnvPool` for the
    arguments.
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
        sweep()
        self.loop: asyncio.AbstractEventLoop
        self._workers: list[Worker] = []
        self._leaving: set[Worker] = set()
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
            dropped = loop.create_future()
            dropped.cancel()
            worker.pending = deque((future and dropped, limit) for future, limit in worker.pending)
            worker.active = 0
            loop.add_reader(worker.link, worker.read)
        self.loop, self._timer = loop, None
        for worker in self._workers:
            loop.call_soon(worker.flush)

    def sit(self, session: int) -> Seat:
        """A place for an episode; the worker is chosen when it starts."""
        return Seat(session)

    async def ask(self, seat: Seat, op: str, argument: str | Task | None, limit: float) -> Reply:
        """One request. A worker that dies while it starts is replaced here, unseen by the episode."""
        while True:
            if seat.worker is None:
                if self._broken is not None:
                    raise type(self._broken)(str(self._broken))
                seat.worker = self._pick()
            if seat.worker.dead:
                return "error", Fault("died", "the worker process of this episode died")
            future: asyncio.Future[Reply] = self.loop.create_future()
            seat.worker.send(future, limit, (op, seat.session, argument))
            self._watch_soon()
            status, value = await future
            if status != "startup":
                return status, value
            seat.worker = None

    def leave(self, seat: Seat) -> None:
        """The episode is over."""
        worker = seat.worker
        if worker is None or worker.dead:
            return
        worker.active -= 1
        worker.send(None, None, ("end", seat.session, None))
        if worker.retiring and worker.active <= 0:
            self._workers.remove(worker)
            self.stats["recycled"] += 1
            worker.flush()
            worker.detach()
            self._leaving.add(worker)
            self.loop.run_in_executor(None, self._see_off, worker)

    def _see_off(self, worker: Worker) -> None:
        worker.reap(6.0)
        self._leaving.discard(worker)

    def _pick(self) -> Worker:
        """The least busy worker, or a new one while there may be more."""
        open_ = [worker for worker in self._workers if not worker.retiring]
        best = min(open_, key=lambda worker: worker.active, default=None)
        if best is None or (best.active > 0 and len(open_) < self.size):
            best = Worker(self)
            self._workers.append(best)
        best.active += 1
        best.episodes += 1
        best.retiring = best.retiring or best.episodes >= self.recycle_episodes
        return best

    # -- faults ------------------------------------------------------------------------------------

    def started(self, worker: Worker, reply: Reply) -> None:
        """The worker said hello, or that it cannot import what the user named."""
        if reply[0] == "ok":
            worker.ready = self._any_started = True
            self._failed_starts = 0
        else:
            self._broken = UserError(reply[1])
            self.lost(worker)

    def lost(self, worker: Worker, late: bool = False) -> None:
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
            by_itself = late or (worker.child.process.returncode or 0) >= 0
            lasting = by_itself and not self._any_started
            attempts = _START_ATTEMPTS if lasting else _KILLED_ATTEMPTS
            if self._failed_starts >= attempts and self._broken is None:
                self._broken = WorkerStartError(
                    f"worker processes cannot start ({attempts} attempts): {words}"
                )
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
    def _is_late(worker: Worker) -> bool:
        return bool(worker.pending) and time.monotonic() - worker.head_since > worker.pending[0][1]

    # -- the end -----------------------------------------------------------------------------------

    def detach(self) -> list[Worker]:
        """Stop serving: pending requests fail, sockets close. Returns the workers that `reap` must
        see off.
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
    def reap(workers: Sequence[Worker]) -> None:
        """Wait for the processes of detached workers, kill those that stay, remove their files.
        Blocks.
        """
        deadline = time.monotonic() + 3.0
        for worker in workers:
            worker.reap(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """`detach` and `reap`; nothing in a forked child, whose parent still plays."""
        if os.getpid() == self._pid:
            self.reap(self.detach())
