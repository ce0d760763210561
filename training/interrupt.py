"""Interrupts: Ctrl-C and SIGTERM end a run where it can be resumed without loss."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self, TypeVar

T = TypeVar("T")
PREPARED = "while the run was prepared"


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a signal.

    Args:
        where: it stopped, e.g. "at rl step 37".
        signum: the signal; the exit code of a process that it ends is 128 more.
    """

    def __init__(self, where: str, signum: int = signal.SIGINT) -> None:
        super().__init__(f"interrupted {where}")
        self.where, self.signum = where, int(signum)


def first_signal(error: BaseException | None) -> Interrupted | None:
    """Find the signal that ended a run in what was raised, or in what that came on top of.

    A second one may come when the handlers of `Interrupts` are gone: Python's own then raises a
    KeyboardInterrupt on the way out.
    """
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error


class Asked(Exception):
    """A signal asks the run to stop at the next place where that loses nothing."""


class Interrupts:
    """A block that catches SIGINT and SIGTERM, where the process has not decided otherwise::

        with Interrupts() as interrupts:
            with interrupts.at_once():
                prepare()                              # a signal raises Interrupted here
            for update in range(100):
                interrupts.check()                     # raises Asked if a signal came meanwhile
                learn()
            await interrupts.cancel_for(evaluate())    # a signal cancels it, and Asked is raised

    A second signal raises `Interrupted` wherever the program is, a third one ends the process.
    Outside the main thread nothing is caught.
    """

    def __init__(self) -> None:
        self.signum = 0
        """The signal that came, 0 for none."""
        self._count = 0
        self._hurry = False
        self._before: dict[int, Any] = {}
        self._task: asyncio.Future[Any] | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum, default in (
                (signal.SIGINT, signal.default_int_handler),
                (signal.SIGTERM, signal.SIG_DFL),
            ):
                if signal.getsignal(signum) is default:
                    self._before[signum] = signal.signal(signum, self._come)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    def check(self) -> None:
        """Raise Asked if a signal came."""
        if self.signum:
            raise Asked

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let the first signal raise Interrupted inside a block that has nothing to save."""
        self._hurry = True
        try:
            if self.signum:
                raise Interrupted(PREPARED, self.signum)
            yield
        finally:
            self._hurry = False

    async def cancel_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work`, which a signal cancels where it awaits. Raises Asked if one did."""
        if self.signum:
            work.close()
            raise Asked
        task = asyncio.get_running_loop().create_task(work)
        self._task = task
        try:
            return await task
        except asyncio.CancelledError:
            # After a second signal everything is cancelled on the way out, and what was being done
            # is half done.
            if self._count != 1:
                raise
            raise Asked from None
        finally:
            self._task = None

    def _come(self, signum: int, frame: FrameType | None) -> None:
        self._count, self.signum = self._count + 1, signum
        if self._count > 2:  # the way out hangs
            os._exit(128 + signum)
        if self._count == 2 or self._hurry:
            raise Interrupted(PREPARED if self._hurry else "at once", signum)
        # It may come in the middle of a print, so nothing but the system call is safe.
        os.write(2, b"\nstopping at the next place that loses nothing; once more stops at once\n")
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)
