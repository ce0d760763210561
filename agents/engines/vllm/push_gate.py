"""PushGate: many requests pass at once, or one push alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class PushGate:
    """Keeps a push and requests apart, in one event loop.

    A push waits for the requests inside, and later ones wait for the push.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._open, self._empty = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._empty.set()
        self._pushes = asyncio.Lock()
        self.lock = asyncio.Lock()
        """For what the requests inside do one after the other."""

    @asynccontextmanager
    async def one_of_many(self) -> AsyncIterator[None]:
        """Let a request in, beside others."""
        while not self._open.is_set():
            await self._open.wait()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Let a push in, alone."""
        async with self._pushes:
            self._open.clear()
            try:
                await self._empty.wait()
                yield
            finally:
                self._open.set()
