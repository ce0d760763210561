"""The breaker: a server that does not answer costs one wait, not one per question."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnrl.agents.teachers import breaker
from turnrl.agents.teachers.breaker import PAUSE, ROW, Breaker
from turnrl.agents.teachers.teacher import Teacher
from turnrl.foundation.aio import await_all

from ..logged import listening, logged
from .fake_server import Reply, at, direct, says, serving  # noqa: F401


def test_it_opens_after_a_row_of_failures_that_took_long_enough() -> None:
    guard = Breaker(60.0)
    for i in range(ROW * 3):  # a server that restarts refuses many in a moment
        guard.failed(i * 0.1, i * 0.1)
        assert guard.admit(1.0) is True
    guard.failed(2.0, 60.0)
    assert guard.open
    assert guard.admit(61.0) is False
    assert guard.admit(60.0 + PAUSE) is None
    assert guard.admit(60.0 + PAUSE) is False, "one probe at a time"


def test_a_probe_closes_it_or_doubles_the_pause() -> None:
    guard, now = Breaker(0.0), 0.0
    for _ in range(ROW):
        guard.failed(now, now)
    for pause in (PAUSE, 2 * PAUSE, 4 * PAUSE):
        assert guard.admit(now + pause - 1) is False
        now += pause
        assert guard.admit(now) is None
        guard.failed(now, now)
        guard.probed()
    now += breaker.LONGEST_PAUSE
    assert guard.admit(now) is None
    guard.answered()
    guard.probed()
    assert not guard.open
    assert guard.admit(now) is True


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 50)), max_size=60))
def test_it_is_never_open_after_an_answer(attempts: list[tuple[bool, float]]) -> None:
    guard, now = Breaker(10.0), 0.0
    for good, seconds in attempts:
        began, now = now, now + seconds
        may = guard.admit(began)
        if may is False:
            assert guard.open
            continue
        guard.answered() if good else guard.failed(began, now)
        if may is None:
            guard.probed()
        assert not (good and guard.open)


def questions(asked: Teacher, count: int) -> list[str | None]:
    async def ask() -> list[str | None]:
        texts = [[{"role": "user", "content": str(i)}] for i in range(count)]
        return await await_all(
            asked.read(text, lambda answer: answer, max_tokens=8) for text in texts
        )

    return asyncio.run(ask())


def test_a_judge_that_never_answers_is_asked_a_few_times_only() -> None:
    freed = threading.Event()
    with serving(lambda body: says(str(freed.wait(30)))) as server:
        asked = at(server, timeout=0.3, retries=4, concurrency=4)
        with listening() as said:
            assert [questions(asked, 30) for _ in range(2)] == [[None] * 30] * 2
        freed.set()
    assert len(server.requests) <= 2 * asked.config.concurrency
    assert asked.failures.keys() <= {"timeout", "paused"}
    assert sum(asked.failures.values()) == 60
    assert len(said) == len(asked.failures), "each kind is said once"


def test_a_server_that_comes_back_is_found_by_one_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    up = threading.Event()

    def answer(body: dict[str, Any]) -> Reply:
        return says("Fine.") if up.is_set() else Reply(503)

    monkeypatch.setattr(breaker, "PAUSE", 0.0)
    with serving(answer) as server:
        asked = at(server, retries=0)
        asked._breaker.silence = 0.0
        asked._breaker._pause = 0.0
        with logged("unavailable"):
            assert questions(asked, 5) == [None] * 5
        assert asked._breaker.open
        up.set()
        assert questions(asked, 1) == ["Fine."]
        assert not asked._breaker.open
        assert questions(asked, 5) == ["Fine."] * 5
