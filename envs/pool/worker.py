"""What runs inside one process of the pool: the instances on stage, and the loop of a worker
process.

Both backends of `turnrl.envs.pool.pool` play on a `Stage`, so they cannot differ in what an episode
sees. A worker process is started as ``python -c "from turnrl.envs.pool.worker import main; main(fd)"``,
never by forking or by importing the caller's script, so it works from scripts without a
``__main__`` guard, from notebooks and beside CUDA::

    stage = Stage()
    instructions, tools, observation, info = stage.reset(1, task)     # 1: any number that names the episode
    observation, reward, terminated, truncated, info = stage.step(1, "go east")
    stage.release(1)                                                  # the instance waits for the next episode

Messages are length-prefixed pickles over a socket pair and are answered in order.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ...foundation.errors import UserError, kind_of, told
from .. import answers
from ..closing import close_here
from ..core import TextEnv, TurnInfo
from ..registry import env_ids, import_worlds, make_for
from ..task import Task

Status = Literal["ok", "user", "error", "timeout", "startup"]
Reply = tuple[Status, Any]
Started = tuple[str, list[dict[str, Any]] | None, str, TurnInfo]
Stepped = tuple[str, float, bool, bool, TurnInfo]

_HEADER = struct.Struct("<Q")


class Fault(NamedTuple):
    """What failed: the value of a reply whose status is 'error', 'timeout' or 'startup'."""

    kind: str
    """What equal faults share: no message, no task."""
    sentence: str
    trace: str = ""
    """The traceback, if there is one."""

    @classmethod
    def of(cls, error: BaseException) -> Fault:
        """The fault of a world that raised."""
        return cls(kind_of(error), told(error), "".join(traceback.format_exception(error)))


CLOSED = Fault("closed", "the pool was closed")
"""Of a request that was under way when its pool ended."""


class Stage:
    """The environment instances of one process, each used by one episode at a time and reused
    afterwards.

    Args:
        options: keyword arguments for `make_for` (``extras``, ``max_turns``).
        idle: how many unused instances are kept; the longest unused are closed first.
        threaded: True where several threads play; worlds that cannot do that are refused with a
            UserError.
        closer: closes instances that are not needed any more; must not raise.
    """

    def __init__(
        self,
        options: Mapping[str, Any] | None = None,
        *,
        idle: int = 64,
        threaded: bool = False,
        closer: Callable[[Sequence[TextEnv]], object] = close_here,
    ) -> None:
        self._closer = closer
        self._options, self._idle_limit, self._threaded = dict(options or {}), idle, threaded
        self._held: dict[int, tuple[str, TextEnv]] = {}
        self._idle: list[tuple[str, TextEnv]] = []
        self._lock = threading.Lock()

    def reset(self, session: int, task: Task) -> Started:
        """Start the task. Raises UserError for an unknown world, else whatever the world raises."""
        key = json.dumps([task.env, task.params], sort_keys=True)
        held = self._held.get(session)
        if held is not None and not _plays(*held, key, task):
            self.release(session)
            held = None
        env = held[1] if held is not None else self._take(key, task)
        self._held[session] = (key, env)
        started = env.reset(options={"task": task})
        observation, info = started if _checks(env) else answers.started(started)
        return (
            answers.text(env.instructions, "instructions"),
            answers.tools(env.tools),
            observation,
            info,
        )

    def step(self, session: int, action: str) -> Stepped:
        """One action in the episode of that number."""
        env = self._held[session][1]
        stepped = env.step(action)
        return stepped if _checks(env) else answers.stepped(stepped)

    def expert(self, session: int) -> str | None:
        """The expert's next action in the episode of that number."""
        action = self._held[session][1].expert_action()
        return answers.maybe(answers.text, action, "the expert's action")

    def release(self, session: int) -> None:
        """The episode is over; its instance may serve another one."""
        with self._lock:
            held = self._held.pop(session, None)
            if held is None:
                return
            self._idle.append(held)
            surplus = [self._idle.pop(0)[1] for _ in range(len(self._idle) - self._idle_limit)]
        self._closer(surplus)

    def discard(self, session: int) -> None:
        """Forget an instance whose state is unknown, without closing it: something may still run in
        it.
        """
        self._held.pop(session, None)

    def close(self) -> None:
        """Close all instances."""
        envs = [env for _, env in [*self._held.values(), *self._idle]]
        self._held.clear()
        self._idle.clear()
        self._closer(envs)

    def _take(self, key: str, task: Task) -> TextEnv:
        with self._lock:
            # Newest first: its files and caches are warm. Best is one that has this very task
            # loaded.
            fits = [
                i for i in range(len(self._idle) - 1, -1, -1) if _plays(*self._idle[i], key, task)
            ]
            if fits:
                same = (index for index in fits if self._idle[index][1].current == task)
                return self._idle.pop(next(same, fits[0]))[1]
        if task.env not in env_ids():
            raise UserError(
                f"no environment '{task.env}' in this pool: "
                "name the module or .py file that registers it in imports=[...]"
            )
        env = make_for(task, **self._options)
        if self._threaded and not env.in_process:
            self._closer([env])
            raise UserError(f"{task.env} cannot run in threads: use EnvPool(backend='process')")
        return env


def _plays(key: str, env: TextEnv, wanted: str, task: Task) -> bool:
    """Whether an instance that was made for one key serves a task with another."""
    return key == wanted or (env.any_params and env.id == task.env)


def _checks(env: TextEnv) -> bool:
    """Whether the base class itself looks at what this world answers."""
    cls = type(env)
    return all(
        getattr(cls, name) is getattr(TextEnv, name)
        for name in ("reset", "step", "_info", "_settled")
    )


def answer(stage: Stage, op: str, session: int, argument: Any) -> Reply:
    """Run one request; what the world raises becomes data. 'reset', 'step' and 'expert' are the
    requests.
    """
    try:
        if op == "step":
            return "ok", stage.step(session, argument)
        return "ok", stage.reset(session, argument) if op == "reset" else stage.expert(session)
    except UserError as error:
        stage.discard(session)
        return "user", str(error)
    except BaseException as error:  # the fault boundary: a broken world must not take the pool with it, nor exit for it
        stage.discard(session)
        return "error", Fault.of(error)


def leave_copy(pid: int) -> None:
    """End this process if it is not the one that had this id: a copy that a world made by a fork
    must not go on.
    """
    if os.getpid() != pid:
        os._exit(0)


def pack(message: Any) -> bytes:
    """One message as bytes."""
    data = pickle.dumps(message, protocol=5)
    return _HEADER.pack(len(data)) + data


class Inbox:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages completed by these bytes, in order."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= _HEADER.size:
            end = start + _HEADER.size + _HEADER.unpack_from(self._buffer, start)[0]
            if end > len(self._buffer):
                break
            message = pickle.loads(bytes(self._buffer[start + _HEADER.size : end]))
            start = end
            yield message
        del self._buffer[:start]


def memory_mb() -> float:
    """Memory of this process in MiB: resident now on Linux, the peak elsewhere."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        return pages * resource.getpagesize() / 2**20
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main(fd: int, root: str, parent: int) -> None:
    """Serve requests from the socket `fd` until it closes or the `parent` process is gone; then
    remove `root`.
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
    stage: Stage | None = None
    while data := link.recv(1 << 18):
        for message in inbox.feed(data):
            if stage is None:
                stage = _open(link, message)
                if stage is None:
                    return
                continue
            op, session, argument = message
            if op == "end":
                stage.release(session)
                leave_copy(pid)
                continue
            status, value = answer(stage, op, session, argument)
            leave_copy(pid)
            try:
                reply = pack((status, value, memory_mb() if op == "reset" else None))
            except (
                Exception
            ) as error:  # the fault boundary again: what a world answered cannot travel
                stage.discard(session)
                reply = pack(("error", Fault.of(error), None))
            link.sendall(reply)
    # A world that hangs on closing must not keep the process: the alarm's default action ends it.
    signal.alarm(5)
    if stage is not None:
        stage.close()


def _open(link: socket.socket, setup: Mapping[str, Any]) -> Stage | None:
    try:
        import_worlds(*setup["imports"])
    except UserError as error:
        link.sendall(pack(("user", str(error), None)))
        return None
    link.sendall(pack(("ok", None, memory_mb())))
    return Stage(setup["options"], idle=setup["idle"])


def _follow(parent: int, root: str) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    _leave(root)


def _leave(root: str) -> None:
    """Remove the private directory and end this process with everything it started."""
    os.chdir("/")
    end_all_of(root)
    shutil.rmtree(root, ignore_errors=True)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(0)


MARK = "TURNRL_WORKER"
"""Environment variable of a worker, with its private directory: what it starts inherits it."""


def end_all_of(root: str) -> None:
    """Kill whatever a worker with this private directory has started, daemons in sessions of their
    own too.

    They are found by their environment under /proc; where there is none, nothing is done.
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
