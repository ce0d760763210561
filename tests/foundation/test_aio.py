"""Many are awaited together, and none is left behind; one is awaited to its end."""

from __future__ import annotations

import asyncio

import pytest
from turnrl.foundation.aio import await_all, await_to_the_end


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


def test_what_must_not_be_done_by_half_is_done_though_the_caller_is_cancelled() -> None:
    done: list[str] = []

    async def work() -> str:
        done.append("begun")
        await asyncio.sleep(0.02)
        done.append("ended")
        return "result"

    async def caller() -> str:
        result = await await_to_the_end(work())
        await asyncio.sleep(0)  # what comes after it may wait again
        return result

    async def interrupted(times: int) -> str:
        task = asyncio.ensure_future(caller())
        for _ in range(times):
            await asyncio.sleep(0.001)
            task.cancel()
        return await task

    for times in (0, 1, 3):
        done.clear()
        assert asyncio.run(interrupted(times)) == "result"
        assert done == ["begun", "ended"]


def test_what_is_awaited_to_its_end_raises_what_it_raises_and_ends_with_the_loop() -> None:
    async def wrong() -> None:
        await asyncio.sleep(0)
        raise ValueError("one")

    with pytest.raises(ValueError, match="one"):
        asyncio.run(await_to_the_end(wrong()))

    async def left_behind() -> None:
        asyncio.ensure_future(await_to_the_end(asyncio.sleep(60)))  # noqa: RUF006
        await asyncio.sleep(0)

    asyncio.run(left_behind())
