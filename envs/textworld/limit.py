"""A limit for commands: an interpreter that never asks for the next one is stopped::

    with limited(machine, "the game 7.z8 did not finish 'wait'"):
        machine.step("wait")

No thread can be stopped from outside, but the interpreter looks at a variable of its own after
every instruction of the game: whether an error has ended it. One thread per process watches the
clock and sets it.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

LIMIT_SECONDS = 10.0
"""A command takes one or two milliseconds of CPU."""
_HALTED = "emulator_halted"


class StuckError(RuntimeError):
    """A game did not finish a command in time; its interpreter was stopped."""


@dataclass(eq=False)
class _Command:
    machine: Any
    until: float
    late: bool = False


_running: set[_Command] = set()
_lock = threading.Lock()
_watcher: threading.Thread | None = None


@contextmanager
def limited(machine: Any, what: str) -> Iterator[None]:
    """Stop a `jericho.FrotzEnv` that runs a command for longer than `LIMIT_SECONDS`.

    Raises StuckError, with `what` for its message; the machine is of no use afterwards.
    """
    command = _Command(machine, time.monotonic() + LIMIT_SECONDS)
    _begin(command)
    try:
        yield
    finally:
        with _lock:
            _running.discard(command)
    if command.late:
        raise StuckError(f"{what} within {LIMIT_SECONDS:g} s and was stopped")


def _begin(command: _Command) -> None:
    global _watcher
    with _lock:
        _running.add(command)
        if _watcher is None:
            _watcher = threading.Thread(target=_watch, name="textworld-limit", daemon=True)
            _watcher.start()


def _watch() -> None:
    while True:
        time.sleep(LIMIT_SECONDS / 10)
        with _lock:
            for command in _running:
                if time.monotonic() > command.until:
                    command.late = True
                    ctypes.c_int.in_dll(command.machine.frotz_lib, _HALTED).value = 1
