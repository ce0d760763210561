"""WorkerProcess: the parent's side of one worker process of the pool, and of its socket.

It writes what is queued once per iteration of the event loop, and reads replies when they arrive.
"""

from __future__ import annotations

import asyncio
import math
import os
import platform
import shutil
import socket
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any, Protocol

from ...foundation.processes import Child, is_alive, python
from .messages import Inbox, Reply, pack
from .worker import MARK, end_all_of

_BOOT = (
    "from turnrl.envs.pool.worker import main;"
    " main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))"
)
_FOLDER = f"turnrl-worker-{platform.node()}-"
"""How the folder of a worker begins; the process that started it and something random follow."""


class Backend(Protocol):
    """The backend that a worker process belongs to, as far as the process sees it."""

    loop: asyncio.AbstractEventLoop
    setup: dict[str, Any]
    start_limit: float
    max_memory_mb: int | None

    def started(self, worker: WorkerProcess, reply: Reply) -> None:
        """Take the first message of a worker."""

    def lost(self, worker: WorkerProcess) -> None:
        """Take in that a worker is gone."""


def sweep_folders() -> None:
    """Remove the folders of workers that were killed together with their parent."""
    for root in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        pid = root.name.removeprefix(_FOLDER).partition("-")[0]
        if pid.isdecimal() and not is_alive(int(pid)):
            shutil.rmtree(root, ignore_errors=True)


class WorkerProcess:
    """The parent's side of one worker process."""

    def __init__(self, backend: Backend) -> None:
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
        """Put a message in the queue; `limit` is in seconds, None for one that gets no reply."""
        self._outbox += pack(message)
        if limit is not None:
            self.pending.append((future, limit))
        if not self._flushing:
            self._flushing = True
            self.backend.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what is queued for the worker; the rest follows when the socket takes it."""
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
        """Take all replies that have arrived."""
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
        """Wait `patience` seconds for the process, then end all that it started and its files."""
        self.child.end(patience)
        end_all_of(self.root)
        shutil.rmtree(self.root, ignore_errors=True)
