"""The program of one worker process of the pool: a loop that serves requests from a socket.

It is started by ``from turnrl.envs.pool.worker import main; main(fd, root, parent)`` in a fresh
interpreter, never by forking or by importing the caller's script, so it works from scripts without
a ``__main__`` guard, from notebooks and beside CUDA. Requests are answered in order.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...foundation.errors import UserError
from ..registry import import_worlds
from .instances import InstancePool, answer, leave_copy
from .messages import Fault, Inbox, pack


def memory_mb() -> float:
    """Return the memory of this process in MiB: resident now on Linux, the peak elsewhere."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        return pages * resource.getpagesize() / 2**20
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main(fd: int, root: str, parent: int) -> None:
    """Serve requests from the socket `fd` until it closes or the `parent` process is gone.

    Then `root`, the private folder of this process, is removed.
    """
    # Ctrl-C is the parent's to handle: it closes the socket when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(parent, root), daemon=True).start()
    link = socket.socket(fileno=fd)
    try:
        _serve(link)
    except (ConnectionError, BrokenPipeError):
        pass
    except BaseException:
        # Not by `_leave`, which is a kill: the exit code says that it failed by itself.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    _leave(root)


def _serve(link: socket.socket) -> None:
    inbox, pid = Inbox(), os.getpid()
    instances: InstancePool | None = None
    while data := link.recv(1 << 18):
        for message in inbox.feed(data):
            if instances is None:
                instances = _open(link, message)
                if instances is None:
                    return
                continue
            op, episode_id, argument = message
            if op == "end":
                instances.release(episode_id)
                leave_copy(pid)
                continue
            status, value = answer(instances, op, episode_id, argument)
            leave_copy(pid)
            try:
                reply = pack((status, value, memory_mb() if op == "reset" else None))
            except (
                Exception
            ) as error:  # the fault boundary again: what a world answered cannot travel
                instances.discard(episode_id)
                reply = pack(("error", Fault.of(error), None))
            link.sendall(reply)
    # A world that hangs on closing must not keep the process: the alarm's default action ends it.
    signal.alarm(5)
    if instances is not None:
        instances.close()


def _open(link: socket.socket, setup: Mapping[str, Any]) -> InstancePool | None:
    try:
        import_worlds(*setup["imports"])
    except UserError as error:
        link.sendall(pack(("user", str(error), None)))
        return None
    link.sendall(pack(("ok", None, memory_mb())))
    return InstancePool(setup["options"], idle=setup["idle"])


def _follow(parent: int, root: str) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    _leave(root)


def _leave(root: str) -> None:
    """Remove this worker's private directory and end the process with everything it started."""
    os.chdir("/")
    end_all_of(root)
    shutil.rmtree(root, ignore_errors=True)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(0)


MARK = "TURNRL_WORKER"
"""Environment variable of a worker, with its private directory: what it starts inherits it."""


def end_all_of(root: str) -> None:
    """Kill whatever a worker with this private directory has started.

    Daemons in sessions of their own are killed too. They are found by their environment under
    /proc; where there is none, nothing is done.
    """
    mark = f"{MARK}={root}".encode()
    for _ in range(3):  # what is killed may have started another one meanwhile
        found = False
        for file in Path("/proc").glob("[0-9]*/environ"):
            pid = int(file.parent.name)
            try:
                if pid != os.getpid() and mark in file.read_bytes().split(b"\0"):
                    os.kill(pid, signal.SIGKILL)
                    found = True
            except OSError:  # it has ended, or it is somebody else's
                continue
        if not found:
            return
