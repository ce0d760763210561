"""A real local server that plays an OpenAI-compatible endpoint, for tests of what asks one."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from turnrl.agents.teachers import endpoint
from turnrl.agents.teachers.endpoint_config import EndpointError, TeacherConfig
from turnrl.agents.teachers.teacher import Teacher


@dataclass
class Reply:
    """What the server sends back; with status 0 it hangs up instead."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)


def says(text: str | None) -> Reply:
    return Reply(
        body=json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})
    )


Answer = Callable[[dict[str, Any]], Reply]
"""What the server makes of the body of a request."""


class Server(ThreadingHTTPServer):
    """Plays an OpenAI-compatible endpoint: `routes` answer, below ``/v1``."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, routes: Mapping[str, Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.routes = routes
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.busy = self.busiest = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        answer = self.server.routes[self.path.removeprefix("/v1")]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
        with self.server.lock:
            self.server.requests.append(body)
            self.server.keys.append(self.headers["Authorization"])
            self.server.busy += 1
            self.server.busiest = max(self.server.busiest, self.server.busy)
        try:
            reply = answer(body)
        finally:
            with self.server.lock:
                self.server.busy -= 1
        if not reply.status:
            self.close_connection = True
            return
        data = reply.body.encode()
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(data)), **reply.headers}.items():
            self.send_header(name, value)
        with suppress(ConnectionError):  # the client may have left
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(answer: Answer | Mapping[str, Answer]) -> Iterator[Server]:
    """A server of these routes, or of the one that answers chats."""
    server = Server(answer if isinstance(answer, Mapping) else {"/chat/completions": answer})
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def script(*replies: Reply) -> Answer:
    """The replies in order; a request too many fails the handler, and with it the test."""
    rest = iter(replies)
    return lambda body: next(rest)


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, no key, no waiting between attempts: in every module that imports it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(endpoint, "BACKOFF", 0.0)


def at(server: Server, **fields: Any) -> Teacher:
    """The endpoint that the server plays."""
    return Teacher(TeacherConfig(url=server.url, model="m", **fields))


def ask(asked: Teacher, text: str = "How was it?", **options: Any) -> str:
    """Its answer to one question."""
    options = {"max_tokens": 8} | options
    return asyncio.run(asked.ask([{"role": "user", "content": text}], **options))


def failure(asked: Teacher, text: str = "How was it?") -> EndpointError:
    """What one question raises."""
    with pytest.raises(EndpointError) as caught:
        ask(asked, text)
    return caught.value
