"""Clock: seconds by phase, over all processes of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Clock:
    """Adds up what each phase takes."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}
        self._running: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside the block."""
        self._running[name] = time.perf_counter()
        try:
            yield
        finally:
            self.add({name: time.perf_counter() - self._running.pop(name)})

    def add(self, spent: Mapping[str, float]) -> None:
        """Count seconds that were spent elsewhere, by an earlier process say."""
        for name, seconds in spent.items():
            self._spent[name] = self._spent.get(name, 0.0) + seconds

    def read(self) -> dict[str, float]:
        """Return the seconds by phase until now, those that go on included."""
        now, seconds = time.perf_counter(), dict(self._spent)
        for name, started in self._running.items():
            seconds[name] = seconds.get(name, 0.0) + now - started
        return seconds
