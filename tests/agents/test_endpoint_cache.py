"""The endpoint's cache: nothing is asked twice, and several processes share it."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from turnrl.agents.teachers import answer_cache
from turnrl.agents.teachers.answer_cache import AnswerCache
from turnrl.agents.teachers.teacher import Teacher
from turnrl.foundation.aio import await_all

from ..logged import logged
from .fake_server import Reply, ask, at, direct, failure, says, script, serving  # noqa: F401


def test_the_cache_answers_without_a_request(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "answers.sqlite")
    with serving(script(says("one"), says("two"), says("three"), says("four"))) as server:
        first = at(server, cache=path)
        assert [ask(first), ask(first)] == ["one", "one"]
        assert ask(at(server, cache=path)) == "one"
        assert len(server.requests) == 1
        assert ask(first, "Another?") == "two"
        assert ask(first, seed=1) == "three"
        assert ask(first, temperature=1.0) == "four"
    assert ask(first, temperature=1.0) == "four"


def test_failures_are_not_kept(tmp_path: Path) -> None:
    with serving(script(Reply(400, "no"), says("one"))) as server:
        asked = at(server, cache=str(tmp_path / "answers.sqlite"))
        assert failure(asked).kind == "refused"
        assert ask(asked) == "one"


def test_two_clients_share_a_cache(tmp_path: Path) -> None:
    path = str(tmp_path / "answers.sqlite")
    with serving(lambda body: says(body["messages"][0]["content"])) as server:
        two = [at(server, cache=path), at(server, cache=path)]

        async def both(texts: list[str]) -> list[str]:
            return await await_all(
                asked.ask([{"role": "user", "content": t}], max_tokens=8)
                for t in texts
                for asked in two
            )

        texts = [str(i) for i in range(20)]
        answers = [t for t in texts for _ in two]
        assert asyncio.run(both(texts)) == answers
        sent = len(server.requests)
        assert asyncio.run(both(texts)) == answers
        assert len(server.requests) == sent


WRITER = """
import os, signal, sqlite3, sys
from turnrl.agents.teachers.answer_cache import AnswerCache
path, name = sys.argv[1:]
sys.stdin.readline()
for i in range(40):
    AnswerCache(path).put(f"{name}{i}", name * i)
database = sqlite3.connect(path, timeout=60, isolation_level=None)
database.execute("BEGIN IMMEDIATE")
database.execute("INSERT INTO answers VALUES (?, 'half')", (name,))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_share_a_cache_and_may_be_killed(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, text=True) for name in "abc"
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.close()
    assert [writer.wait(120) for writer in writers] == [-signal.SIGKILL] * 3
    cache = AnswerCache(str(path))
    assert all(cache.get(f"{name}{i}") == name * i for name in "abc" for i in range(40))
    assert [cache.get(name) for name in "abc"] == [None] * 3
    cache.put("a", "whole")
    assert cache.get("a") == "whole"


def damaged(path: Path) -> None:
    """A database of which the middle was overwritten."""
    kept = AnswerCache(str(path))
    for i in range(200):
        kept.put(f"key{i}", "x" * 500)
    data = bytearray(path.read_bytes())
    data[4096:-4096] = b"\xff" * (len(data) - 8192)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "trouble", ["text", "folder", "below a file", "damaged", "other table", "no path", "locked"]
)
def test_a_run_goes_on_without_a_cache_that_cannot_be_used_and_says_so_once(
    tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_cache, "PATIENCE", 0.05)
    path = tmp_path / "answers.sqlite"
    locked: sqlite3.Connection | None = None
    if trouble in ("text", "below a file"):
        path.write_text("not a database " * 100)
        path = path if trouble == "text" else path / "below"
    elif trouble == "folder":
        path.mkdir()
    elif trouble == "damaged":
        damaged(path)
    elif trouble == "other table":
        with closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE answers (number INTEGER)")
    elif trouble == "no path":
        path = Path(f"{tmp_path}/\0")
    else:
        AnswerCache(str(path)).put("a", "b")
        locked = sqlite3.connect(path, isolation_level=None)
        locked.execute("PRAGMA journal_mode = DELETE")
        locked.execute("BEGIN EXCLUSIVE")
    before = path.read_bytes() if trouble == "text" else b""
    with serving(lambda body: says(body["messages"][0]["content"])) as server:
        asked = at(server, cache=str(path))
        with logged("goes on without its cache") as said:
            assert [ask(asked, text) for text in "abca"] == list("abca")
    assert len(said) == 1
    assert len(server.requests) == 4
    if locked is not None:
        locked.close()
    if before:
        assert path.read_bytes() == before


def test_only_what_could_be_read_is_kept(tmp_path: Path) -> None:
    """A passing complaint that comes as an answer must not be the answer for ever."""
    path = str(tmp_path / "answers.sqlite")

    def read(asked: Teacher) -> int | None:
        def number(text: str) -> int | None:
            return int(text) if text.isdecimal() else None

        return asyncio.run(
            asked.read([{"role": "user", "content": "How many?"}], number, max_tokens=8)
        )

    with serving(
        script(says("overloaded"), says("overloaded"), says("Well."), says("7"))
    ) as server:
        with logged("unparsable"):
            assert read(at(server, cache=path)) is None
        assert read(at(server, cache=path)) == 7
        assert read(at(server, cache=path)) == 7
    assert len(server.requests) == 4
