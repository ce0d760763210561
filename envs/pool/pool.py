"""EnvPool: many episodes at once in threads or processes, each with its own faults::

    async with EnvPool(backend="process", workers=2) as pool:
        async with pool.episode(task) as session:                 # waits for a free slot
            observation, info = await session.reset()
            observation, reward, terminated, truncated, info = await session.step("go east")

A world that raises, hangs or dies ends its own episode with `EnvFailure`; it is never a reward, and
the pool goes on. Both backends give the same results for the same task and actions. In worker
processes only registered worlds are known: name the modules or files that register yours in
``imports``.

    =========  =============================================  =====================================
    backend    for                                            a hang costs
    =========  =============================================  =====================================
    thread     worlds in this process; no set-up, no speed-up  a thread and an instance, for ever
    process    everything else; one core a worker, killable   the episodes of one worker
    =========  =============================================  =====================================
"""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Literal, Self

from ...foundation.config import checked
from ...foundation.errors import UserError
from ..core import TextEnv, TurnInfo
from ..faults import Faults
from ..task import Task
from .messages import Fault, Started, Stepped
from .processes import Processes, WorkerStartError, cores
from .threads import Threads

__all__ = ["EnvFailure", "EnvPool", "EnvSession", "WorkerStartError", "pool_for"]


class EnvFailure(Exception):
    """The world of this episode crashed ('error', also when its worker died) or hung ('timeout').
    Never a reward.

    Its first line says what failed; a traceback may follow.
    """

    def __init__(self, kind: Literal["error", "timeout"], task: Task, fault: Fault) -> None:
        super().__init__(
            f"{task.id}: {fault.sentence}{chr(10) * bool(fault.trace)}{fault.trace}".rstrip()
        )
        self.kind: Literal["error", "timeout"] = kind
        self.task, self.fault = task, fault


class EnvSession:
    """One episode in a pool: the methods of a TextEnv, awaited.

    Every method raises EnvFailure if the world fails, and the same one again afterwards; UserError
    for an unknown world, a missing extra or a bad parameter; RuntimeError for calls out of order.
    """

    def __init__(
        self, pool: EnvPool, backend: Processes | Threads, task: Task, number: int
    ) -> None:
        self.task = task
        self.instructions = ""
        """What a player must know; known after reset."""
        self.tools: list[dict[str, Any]] | None = None
        """JSON schemas of the actions, if the world has them; known after reset."""
        self._pool, self._backend = pool, backend
        self._seat: Any = backend.sit(number)
        self._failure: EnvFailure | None = None
        self._playing = self._busy = False

    async def reset(self) -> tuple[str, TurnInfo]:
        """Start the task, or start it again, and return its first observation and info."""
        self._playing = False
        started: Started = await self._ask("reset", self.task, self._pool.reset_timeout)
        self.instructions, self.tools, observation, info = started
        self._playing = True
        return observation, info

    async def step(self, action: str) -> tuple[str, float, bool, bool, TurnInfo]:
        """Take one action: observation, reward, terminated, truncated, info."""
        if not self._playing and self._failure is None:
            raise RuntimeError("the episode is over or has not begun: call reset() before step()")
        stepped: Stepped = await self._ask("step", action, self._pool.step_timeout)
        self._pool.stats["steps"] += 1
        self._playing = not (stepped[2] or stepped[3])
        return stepped

    async def expert_action(self) -> str | None:
        """Ask for the expert's next action; None where there is no expert."""
        action: str | None = await self._ask("expert", None, self._pool.step_timeout)
        return action

    async def _ask(self, op: str, argument: str | Task | None, limit: float) -> Any:
        if self._failure is not None:
            raise EnvFailure(self._failure.kind, self.task, self._failure.fault)
        if self._busy:
            raise RuntimeError(
                "this episode already waits for its world: await one call before the next"
            )
        self._busy = True
        try:
            status, value = await self._backend.ask(self._seat, op, argument, limit)
        finally:
            self._busy = False
        if status == "ok":
            return value
        if status == "user":
            raise UserError(value)
        kind: Literal["error", "timeout"] = "timeout" if status == "timeout" else "error"
        self._pool.stats[f"{kind}s"] += 1
        self._failure = EnvFailure(kind, self.task, value)
        self._pool.faults.note(
            f"env_{kind}: {value.kind}", f"env_{kind} in {self.task.id}: {value.sentence}"
        )
        raise self._failure

    def _leave(self) -> None:
        self._backend.leave(self._seat)


class EnvPool:
    """Plays up to `slots` episodes at once. Serves one event loop at a time; a later one may follow
    a finished one.

    Args:
        backend: 'thread' for worlds with ``in_process``, 'process' for every world.
        workers: threads (default 16) or worker processes (default: the cores this process may use).
        slots: concurrent episodes; `episode` waits for a free one.
        step_timeout: seconds a step or an expert action may take once it is its turn.
        reset_timeout: seconds a reset, or the start of a worker process, may take.
        recycle_episodes: a worker process is replaced after so many episodes.
        max_memory_mb: a worker process above so many MiB finishes its episodes and is replaced;
            None: no limit.
        options: keyword arguments of every instance: ``extras``, ``max_turns``.
        imports: modules or ``.py`` files that register worlds.

    Raises:
        UserError: a bad argument, or one of `imports` that cannot be found.
        WorkerStartError: from the calls of an episode, when worker processes cannot start at all.
    """

    @checked
    def __init__(
        self,
        *,
        backend: Literal["thread", "process"] = "thread",
        workers: int | None = None,
        slots: int = 64,
        step_timeout: float = 30.0,
        reset_timeout: float = 120.0,
        recycle_episodes: int = 500,
        max_memory_mb: int | None = 2048,
        options: Mapping[str, Any] | None = None,
        imports: Sequence[str] = (),
    ) -> None:
        if slots < 1 or (workers is not None and workers < 1) or recycle_episodes < 1:
            raise UserError("EnvPool: slots, workers and recycle_episodes must be at least 1")
        self.step_timeout, self.reset_timeout, self.slots = step_timeout, reset_timeout, slots
        self.stats = {
            "episodes": 0,
            "steps": 0,
            "errors": 0,
            "timeouts": 0,
            "restarts": 0,
            "recycled": 0,
        }
        """Counters since the start. 'restarts': workers or threads lost to a fault; 'recycled': for
        their age.
        """
        self.faults = Faults()
        """What failed in this pool, and in those who play in it."""
        self._backend: Processes | Threads
        if backend == "process":
            self._backend = Processes(
                workers=workers,
                slots=slots,
                start_limit=reset_timeout,
                recycle_episodes=recycle_episodes,
                max_memory_mb=max_memory_mb,
                options=options or {},
                imports=imports,
                stats=self.stats,
            )
        elif backend == "thread":
            self._backend = Threads(
                workers=workers,
                slots=slots,
                options=options or {},
                imports=imports,
                stats=self.stats,
            )
        else:
            raise UserError(f"EnvPool: no backend '{backend}': use thread or process")
        self._numbers = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._free: asyncio.Semaphore
        # Also runs when the interpreter ends or the pool is forgotten.
        self._closer = weakref.finalize(self, self._backend.close)

    @asynccontextmanager
    async def episode(self, task: Task) -> AsyncIterator[EnvSession]:
        """Open an episode of this task, as soon as a slot is free.

        Nothing happens in the world before `reset`.
        """
        self._bind()
        async with self._free:
            self.stats["episodes"] += 1
            session = EnvSession(self, self._backend, task, next(self._numbers))
            try:
                yield session
            finally:
                session._leave()

    def _bind(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._closer.alive:
            raise RuntimeError("this pool is closed")
        if loop is not self._loop:
            if self._loop is not None and self._loop.is_running():
                raise RuntimeError("this pool already serves another running event loop")
            self._loop = loop
            self._free = asyncio.Semaphore(self.slots)
            self._backend.attach(loop)

    def close(self) -> None:
        """End all workers and remove their files.

        Blocks for some seconds at most. May be called twice.
        """
        self._closer()

    async def aclose(self) -> None:
        """Close the pool as `close` does, without blocking the event loop."""
        # None for whoever comes second: the workers are seen off once.
        if self._closer.detach() is not None:
            await asyncio.to_thread(self._backend.reap, self._backend.detach())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


def pool_for(
    env: TextEnv, slots: int, *, extras: Collection[str] = (), imports: Sequence[str] = ()
) -> EnvPool:
    """Make a pool for the tasks of an environment: of threads where it may, else of processes.

    Instances of what needs a process are heavy, each with a Java of its own, say: no more than two
    per core are open.
    """
    options = {"extras": tuple(extras)}
    if env.in_process:
        return EnvPool(slots=slots, options=options)
    return EnvPool(
        backend="process", slots=min(slots, 2 * cores()), options=options, imports=imports
    )
