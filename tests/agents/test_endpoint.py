"""The endpoint: answers, typed failures, retries and limits."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from turnrl.agents.teachers import endpoint
from turnrl.agents.teachers.breaker import RateLimit
from turnrl.agents.teachers.endpoint import Endpoint
from turnrl.agents.teachers.endpoint_config import EndpointConfig, TeacherConfig
from turnrl.foundation.aio import await_all
from turnrl.foundation.errors import UserError

from .fake_server import Reply, ask, at, direct, failure, says, script, serving  # noqa: F401

QUESTION = [{"role": "user", "content": "How was it?"}]


def test_what_is_sent_and_what_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret\n")
    with serving(script(says("Fine."), says("Fine."))) as server:
        assert ask(at(server, api_key_env="MY_KEY"), seed=3) == "Fine."
        assert ask(at(server)) == "Fine."
    expected = {"model": "m", "messages": QUESTION, "temperature": 0.0, "max_tokens": 8}
    assert server.requests == [expected | {"seed": 3}, expected | {"seed": 0}]
    assert server.keys == ["Bearer secret", None]


def test_a_key_that_no_header_can_hold_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sécret")
    with (
        serving(script()) as server,
        pytest.raises(UserError, match="OPENAI_API_KEY does not hold an API key") as caught,
    ):
        ask(at(server))
    assert "sécret" not in str(caught.value)


def test_headers_that_the_library_adds_are_quoted_in_no_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Team: blue\nX-Pass: hush-hush")
    with serving(lambda body: Reply(400, "You sent hush-hush for blue.")) as server:
        error = failure(at(server))
    assert error.message == "status 400: You sent [secret] for [secret]."


def test_a_slow_server_is_a_timeout_and_is_asked_again() -> None:
    asked, freed = [], threading.Event()

    def slow_once(body: dict[str, Any]) -> Reply:
        asked.append(body)
        if len(asked) == 1:
            freed.wait(30)
        return says("Fine.")

    with serving(slow_once) as server:
        assert ask(at(server, timeout=0.5, retries=1)) == "Fine."
        freed.set()
    assert len(asked) == 2


def test_a_server_that_stays_slow_is_a_timeout() -> None:
    freed = threading.Event()
    with serving(lambda body: says(str(freed.wait(30)))) as server:
        error = failure(at(server, timeout=0.2, retries=1))
        freed.set()
    assert (error.kind, len(server.requests)) == ("timeout", 2)
    assert "0.2 seconds" in error.message


def test_a_broken_server_is_asked_again() -> None:
    with serving(script(Reply(500, "oops"), Reply(503), says("Fine."))) as server:
        assert ask(at(server)) == "Fine."
    assert len(server.requests) == 3


def test_a_connection_that_breaks_is_tried_again() -> None:
    with serving(script(Reply(0), Reply(0), says("Fine."))) as server:
        assert ask(at(server)) == "Fine."
    assert len(server.requests) == 3


def test_connections_that_go_on_breaking_are_unavailable() -> None:
    with serving(lambda body: Reply(0)) as server:
        assert failure(at(server, retries=2)).kind == "unavailable"
    assert len(server.requests) == 3


def test_a_server_that_stays_broken_is_unavailable() -> None:
    with serving(lambda body: Reply(502, "bad gateway")) as server:
        error = failure(at(server, retries=2))
    assert (error.kind, len(server.requests)) == ("unavailable", 3)
    assert "status 502: bad gateway" in error.message


@pytest.mark.parametrize("wait", ["0", "0.0", "Sat, 21 Nov 2020 16:54:54 GMT"])
def test_a_busy_server_says_when_to_come_back(wait: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "BACKOFF", 3600.0)
    with serving(script(Reply(429, headers={"Retry-After": wait}), says("Fine."))) as server:
        assert ask(at(server)) == "Fine."
    assert len(server.requests) == 2


def test_retry_after_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(endpoint, "BACKOFF", 0.5)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    replies = [
        Reply(500),
        Reply(429, headers={"Retry-After": "7"}),
        Reply(500, headers={"Retry-After": "soon"}),
    ]
    with serving(script(*replies, says("Fine."))) as server:
        assert ask(at(server)) == "Fine."
    assert waits == [0.5, 7.0, 2.0]


def test_a_break_of_a_day_is_not_waited_for() -> None:
    with serving(script(Reply(429, headers={"Retry-After": "86400"}))) as server:
        assert failure(at(server)).kind == "unavailable"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            '{"error": {"message": "Incorrect API key\\nprovided", "type": "x"}}',
            "Incorrect API key provided",
        ),
        ('{"object": "error", "message": "no such model"}', "no such model"),
        ('{"detail": "no such model"}', "no such model"),
        ('{"error": "no such model"}', "no such model"),
        ('{"error": {}}', '{"error": {}}'),
        ("[1]", "[1]"),
        ("denied", "denied"),
        ("", "Unauthorized"),
    ],
)
def test_a_refusal_is_not_repeated_and_shows_the_message(body: str, message: str) -> None:
    with serving(script(Reply(401, body))) as server:
        error = failure(at(server))
    assert (error.kind, error.message) == ("refused", f"status 401: {message}")


@pytest.mark.parametrize(
    "body", ["not json", "[]", "{}", '{"choices": []}', "[" * 100_000, '{"choices": 3}']
)
def test_another_shape_is_unreadable(body: str) -> None:
    with serving(script(Reply(body=body))) as server:
        error = failure(at(server))
    assert error.kind == "unreadable"


def test_an_answer_without_text_is_unreadable() -> None:
    with serving(script(says(None))) as server:
        assert failure(at(server)).kind == "unreadable"


def test_a_server_on_a_unix_socket_is_asked(tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    async def asked() -> str:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request = await reader.readuntil(b"\r\n\r\n")
            body = says(request.split()[1].decode()).body
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(f"{head}{body}".encode())
            writer.close()

        config = EndpointConfig(url="http://named/v1", model="m")
        async with await asyncio.start_unix_server(answer, path):
            there = Endpoint(config, socket=path)
            return await there.post("/x", b"{}", lambda reply: reply.completion()[0] or "")

    assert asyncio.run(asked()) == "/v1/x"


def test_nobody_there_is_unavailable() -> None:
    with serving(script()) as server:
        asked = at(server)
    assert failure(asked).kind == "unavailable"


@settings(max_examples=30)
@given(text=st.text(st.characters(codec=None), max_size=30))
@example(text="\ud800\0é")
def test_any_text_can_be_asked_answered_and_kept(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    cache = str(tmp_path_factory.mktemp("kept") / "answers.sqlite")
    with serving(script(says(text))) as server:
        asked = at(server, cache=cache)
        assert ask(asked, text) == ask(asked, text) == text.encode("utf-8", "replace").decode()
    assert server.requests[0]["messages"][0]["content"] == text


def test_no_more_than_so_many_at_once() -> None:
    """Every request waits until three are there (fewer hang), then lingers (more would be seen)."""
    barrier = threading.Barrier(3)

    def together(body: dict[str, Any]) -> Reply:
        barrier.wait(30)
        time.sleep(0.1)
        return says(body["messages"][0]["content"])

    with serving(together) as server:
        asked = at(server, concurrency=3)
        texts = [str(i) for i in range(12)]

        async def all_of_them() -> list[str]:
            return await await_all(
                asked.ask([{"role": "user", "content": t}], max_tokens=8) for t in texts
            )

        assert asyncio.run(all_of_them()) == texts
    assert server.busiest == 3


def test_any_loop_may_ask_and_nothing_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    clients: list[Any] = []
    make = Endpoint._opened

    def kept(self: Endpoint) -> Any:
        clients.append(make(self))
        return clients[-1]

    monkeypatch.setattr(Endpoint, "_opened", kept)
    with serving(lambda body: says(body["messages"][0]["content"])) as server:
        asked = at(server, concurrency=1)

        async def three() -> list[str]:
            return await await_all(
                asked.ask([{"role": "user", "content": t}], max_tokens=8) for t in "abc"
            )

        assert [asyncio.run(three()) for _ in range(3)] == [["a", "b", "c"]] * 3
    assert [link.client.is_closed() for link in clients] == [True] * 3
    assert asked._links == {}


def test_a_question_that_is_given_up_leaves_nothing_open() -> None:
    freed = threading.Event()
    with serving(lambda body: says(str(freed.wait(30)))) as server:
        asked = at(server)

        async def give_up() -> None:
            async with asyncio.timeout(0.2):
                await asked.ask(QUESTION, max_tokens=8)

        with pytest.raises(TimeoutError):
            asyncio.run(give_up())
        freed.set()
        assert asked._links == {}
        assert ask(asked) == "True"


@given(st.integers(1, 5), st.lists(st.floats(0, 40), max_size=30))
def test_a_minute_never_holds_more_than_the_rate(per_minute: int, gaps: list[float]) -> None:
    limit, now, starts = RateLimit(per_minute), 0.0, []
    for gap in gaps:
        now += gap
        wait = limit.reserve(now)
        assert wait >= 0
        starts.append(now + wait)
    for early, late in zip(starts, starts[per_minute:], strict=False):
        assert late - early >= 60 - 1e-6
    assert starts[:per_minute] == [sum(gaps[: i + 1]) for i in range(len(starts[:per_minute]))]


def test_every_attempt_counts_for_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(round(seconds))

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    with serving(script(Reply(500), says("a"), says("b"))) as server:
        asked = at(server, requests_per_minute=2)
        assert [ask(asked), ask(asked)] == ["a", "b"]
    assert waits == [0, 0, 0, 60]


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "ftp://host/v1", "http://", "", "http://[/v1"]
)
def test_an_address_is_checked(url: str) -> None:
    with pytest.raises(ValidationError):
        TeacherConfig(url=url, model="m")


def test_the_library_is_imported_when_it_is_needed() -> None:
    users = "turnrl.rewards.judge, turnrl.rewards.pairwise, turnrl.agents.tagger.endpoint"
    code = f"import sys, {users}; print('openai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with (
        serving(script()) as server,
        pytest.raises(UserError, match=r"pip install 'turnrl\[endpoint\]'"),
    ):
        ask(at(server))
