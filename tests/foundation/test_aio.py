"""Many are awaited together: in order, side by side, and none is left behind."""

from __future__ import annotations

import asyncio

import pytest
from turnrl.foundation.aio import await_all


async def value(i: int, seconds: float = 0.0) -> int:
    await asyncio.sleep(seconds)
    return i


def test_results_come_in_the_order_of_the_questions() -> None:
    assert asyncio.run(await_all(value(i, 0.01 * (3 - i)) for i in range(4))) == [0, 1, 2, 3]
    assert asyncio.run(await_all([])) == []


def test_all_run_side_by_side() -> None:
    async def meet() -> list[int]:
        here, all_here = [], asyncio.Event()

        async def guest(i: int) -> int:
            here.append(i)
            if len(here) == 3:
                all_here.set()
            await all_here.wait()
            return i

        return await asyncio.wait_for(await_all(guest(i) for i in range(3)), 5)

    assert asyncio.run(meet()) == [0, 1, 2]


def test_what_one_raises_is_raised_when_all_have_ended() -> None:
    ended = []

    async def lane(i: int) -> None:
        try:
            await asyncio.sleep(0.01 * i if i < 2 else 60)
            if i == 1:
                raise ValueError("one")
        finally:
            await asyncio.sleep(0)  # to close something may take a turn of the loop
            ended.append(i)

    with pytest.raises(ValueError, match="one"):
        asyncio.run(await_all(lane(i) for i in range(4)))
    assert sorted(ended) == [0, 1, 2, 3]


def test_a_caller_that_is_cancelled_leaves_nothing_running() -> None:
    ended = []

    async def lane(i: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(i)

    async def give_up() -> None:
        async with asyncio.timeout(0.02):
            await await_all(lane(i) for i in range(3))

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    assert sorted(ended) == [0, 1, 2]
