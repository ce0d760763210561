"""Await many coroutines at once and leave none behind, or one to its end whatever comes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def await_all(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines side by side and return their results in order.

    What one of them raises is raised when the others, which are cancelled then, have ended: none
    goes on with a connection, a conversation or an episode that nobody waits for any more. The same
    holds if the caller is cancelled.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def await_to_the_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that must not be done by half: if the caller is cancelled meanwhile, that is
    forgotten.

    Whoever cancels has to say so in another way too, to be heard after it.
    """
    task = asyncio.ensure_future(coroutine)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # as everything is when a loop is closed
                raise
            if (caller := asyncio.current_task()) is not None:
                caller.uncancel()
