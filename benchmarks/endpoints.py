"""Ask servers that do not behave: a table of server -> what a question to it ends in.

    python benchmarks/endpoints.py

Each server is a real one on this machine that sends raw bytes. A question has one second and one
retry. An answer stands in quotes, a failure as its kind and message; `secret` says whether the key,
or the password of the address, is in any of it or in a warning; MB, by how much the memory of this
process peaked higher.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import queue
import resource
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging.handlers import QueueHandler
from typing import Any

KEY = "sk-live-0123456789abcdef"
TIMEOUT = 1.0
QUESTION = [{"role": "user", "content": "How was it?"}]
Handler = Callable[[socket.socket, bytes, int], None]
"""(connection, request, its number from 0) -> sends whatever it likes."""


def http(
    body: bytes | str, status: str = "200 OK", length: int | None = None, **headers: str
) -> bytes:
    """Write one response of HTTP/1.1 as bytes."""
    data = body.encode() if isinstance(body, str) else body
    lines = {"Content-Length": str(len(data) if length is None else length), "Connection": "close"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + data


def said(content: Any, reason: str = "stop") -> str:
    """Write a chat completion as JSON."""
    message = {"role": "assistant", "content": content}
    return json.dumps({"choices": [{"message": message, "finish_reason": reason}]})


def sends(data: bytes) -> Handler:
    """Make a server that sends these bytes and hangs up."""
    return lambda link, request, number: link.sendall(data)


def echo(status: str) -> Handler:
    """Make a server that quotes the whole request."""
    return lambda link, request, number: link.sendall(http(b"You sent: " + request, status))


def drip(head: bytes, drop: bytes) -> Handler:
    """Make a server that goes on for ever, slowly."""

    def handle(link: socket.socket, request: bytes, number: int) -> None:
        link.sendall(head)
        while True:
            link.sendall(drop)
            time.sleep(0.05)

    return handle


def flood(head: bytes, block: bytes) -> Handler:
    """Make a server that goes on for ever, as fast as it can."""

    def handle(link: socket.socket, request: bytes, number: int) -> None:
        link.sendall(head)
        while True:
            link.sendall(block)

    return handle


def never(link: socket.socket, request: bytes, number: int) -> None:
    """Answer nothing at all."""
    time.sleep(3)


def busy_once(link: socket.socket, request: bytes, number: int) -> None:
    """Answer the first request with 'too many requests', and the later ones well."""
    link.sendall(
        http("later", "429 Too Many Requests", Retry_After="0")
        if not number
        else http(said("Fine."))
    )


def path_of(link: socket.socket, request: bytes, number: int) -> None:
    """Answer with the path that was asked for."""
    link.sendall(http(said(request.split()[1].decode())))


BOMB = gzip.compress(bytes(300_000_000), 9)
"""300 MB of zeros in 0.3 MB."""
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SERVERS: dict[str, Handler] = {
    "answers": sends(http(said("Fine."))),
    "answers by HTTP/1.0 without a length": sends(
        b"HTTP/1.0 200 OK\r\n\r\n" + said("Fine.").encode()
    ),
    "answers packed by gzip": sends(
        http(gzip.compress(said("Fine.").encode()), Content_Encoding="gzip")
    ),
    "answers packed by deflate": sends(
        http(zlib.compress(said("Fine.").encode()), Content_Encoding="deflate")
    ),
    "answers with an empty text": sends(http(said(""))),
    "answers with half a surrogate pair": sends(http(said("Fine.\ud800"))),
    "answers with bytes that are no UTF-8": sends(
        http(said("Fine.").encode().replace(b"F", b"\xff"))
    ),
    "is busy once": busy_once,
    "asks to wait for a day": sends(http("later", "429 Too Many Requests", Retry_After="86400")),
    "stays broken": sends(http("oops", "500 Internal Server Error")),
    "stays broken and quotes the request": echo("503 Service Unavailable"),
    "refuses and quotes the request": echo("401 Unauthorized"),
    "refuses and quotes the key in JSON": sends(
        http(
            json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}),
            "401 Unauthorized",
        )
    ),
    "answers with the key": sends(http(said(f"You are {KEY}."))),
    "answers something else with the key": sends(http(json.dumps({"key": KEY}))),
    "redirects": sends(http("", "302 Found", Location="http://127.0.0.1:9/")),
    "sends no content": sends(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "was cut before the first word": sends(http(said("", "length"))),
    "was cut and says null": sends(http(said(None, "length"))),
    "filters the answer": sends(http(said(None, "content_filter"))),
    "answers with a number": sends(http(said(7))),
    "answers with a list of parts": sends(http(said([{"type": "text", "text": "Fine."}]))),
    "answers in HTML": sends(http("<html>It works!</html>")),
    "answers null": sends(http("null")),
    "answers in 100,000 brackets": sends(http("[" * 100_000)),
    "answers with a number of a million digits": sends(http('{"choices": ' + "9" * 900_000 + "}")),
    "answers with 5 MB": sends(http(said("x" * 5_000_000))),
    "sends for ever": flood(CHUNKED, b"10000\r\n" + b"x" * 0x10000 + b"\r\n"),
    "sends for ever, slowly": drip(CHUNKED, b"1\r\nx\r\n"),
    "sends 300 MB packed in 0.3 MB": sends(http(BOMB, Content_Encoding="gzip")),
    "packs in a way that was not asked for": sends(http("x", Content_Encoding="br")),
    "sends a damaged package": sends(http(b"\x1f\x8bnothing", Content_Encoding="gzip")),
    "sends headers for ever": flood(b"HTTP/1.1 200 OK\r\n", b"X-More: " + b"x" * 1000 + b"\r\n"),
    "sends headers for ever, slowly": drip(b"HTTP/1.1 200 OK\r\n", b"X-More: x\r\n"),
    "says 'continue' for ever": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "hangs up": lambda link, request, number: None,
    "hangs up in the middle": sends(http(said("Fine."), length=10_000)),
    "speaks another protocol": sends(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "sends damaged chunks": sends(CHUNKED + b"zz\r\nhello"),
    "says nothing": never,
}
ADDRESSES: dict[str, str] = {
    "with a query": "http://127.0.0.1:{port}/v1?version=2&token=abcdefgh12345",
    "with user and password": "http://user:passw0rd@127.0.0.1:{port}/v1",
    "with a slash at the end": "http://127.0.0.1:{port}/v1/",
    "with the whole path": "http://127.0.0.1:{port}/v1/chat/completions",
    "with a password, and a server that quotes the request": (
        "http://user:passw0rd@127.0.0.1:{port}/v1"
    ),
    "of a port where nobody listens": "http://127.0.0.1:1/v1",
    "of a name that nobody has": "http://nobody.invalid/v1",
    "https where http is spoken": "https://127.0.0.1:{port}/v1",
    "with port 99999": "http://127.0.0.1:99999/v1",
    "with port 0": "http://127.0.0.1:0/v1",
    "with a port of letters": "http://127.0.0.1:http/v1",
    "with a space": "http://127.0.0.1:{port}/v 1",
    "with an empty label": "http://a..b/v1",
}
"""Addresses of a server that answers with the path it was asked for."""


@dataclass
class Tried:
    """The end of one question."""

    outcome: str
    """The answer in quotes, or the kind of failure and its message."""
    requests: int
    warned: list[str] = field(default_factory=list)
    megabytes: float = 0.0
    """By how much the memory of this process peaked higher."""

    @property
    def secret(self) -> bool:
        """Tell whether something secret is in what a user would see."""
        text = " ".join([self.outcome, *self.warned])
        return any(
            secret in text for secret in (KEY, "passw0rd", "dXNlcjpwYXNzdzByZA", "abcdefgh12345")
        )


@contextmanager
def serving(handle: Handler) -> Iterator[tuple[int, list[bytes]]]:
    """Run a server, and lend its port and the requests that it got."""
    requests: list[bytes] = []

    def serve(link: socket.socket) -> None:
        with link:
            link.settimeout(5)
            try:
                request = link.recv(1 << 16)
                while b"\r\n\r\n" not in request:
                    request += link.recv(1 << 16)
                head, _, body = request.partition(b"\r\n\r\n")
                size = int(
                    next(
                        line for line in head.lower().split(b"\r\n") if b"content-length" in line
                    ).split()[1]
                )
                while len(body) < size:
                    body += link.recv(1 << 16)
                requests.append(request)
                handle(link, request, len(requests) - 1)
                link.shutdown(socket.SHUT_WR)
            except (OSError, StopIteration):  # the client has left, or speaks another protocol
                return

    def accept(server: socket.socket) -> None:
        while True:
            try:
                link, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(link,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=(server,), daemon=True).start()
        yield server.getsockname()[1], requests
        server.shutdown(socket.SHUT_RDWR)


def ask(url: str) -> str:
    """Ask a judge's question at this address, and say what it ends in."""
    from pydantic import ValidationError
    from turnrl.agents.teachers.endpoint_config import EndpointError, TeacherConfig
    from turnrl.agents.teachers.teacher import Teacher
    from turnrl.foundation.errors import UserError

    async def question() -> str:
        asked = Teacher(TeacherConfig(url=url, model="m", timeout=TIMEOUT, retries=1), "judge")
        # The same question twice: as a judge asks, with its warning, and bare, with its failure.
        await asked.read(QUESTION, lambda text: text, max_tokens=8)
        return await asked.ask(QUESTION, max_tokens=8)

    try:
        return repr(asyncio.run(question()))
    except EndpointError as error:
        return f"{error.kind}: {error.message}"
    except UserError as error:
        return f"error of the user: {error}"
    except ValidationError as error:
        return (
            "refused in the recipe:"
            f" {error.errors(include_input=False, include_url=False)[0]['msg']}"
        )


def attempt(handle: Handler, address: str = "http://127.0.0.1:{port}/v1") -> Tried:
    """Ask a server once, with a key in the environment, and note what that ends in."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    os.environ |= {"OPENAI_API_KEY": KEY, "NO_PROXY": "*"}
    logger, records = logging.getLogger("turnrl"), queue.SimpleQueue[logging.LogRecord]()
    listener = QueueHandler(records)
    logger.addHandler(listener)
    with serving(handle) as (port, requests):
        outcome = ask(address.format(port=port))
    logger.removeHandler(listener)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = [records.get().getMessage() for _ in range(records.qsize())]
    return Tried(outcome, len(requests), said, (peak - before) / 1024)


def main() -> None:
    """Ask all servers and addresses, and print the table."""
    print("| server | what a question ends in | requests | MB | secret |\n|---|---|---|---|---|")
    for name, handle in SERVERS.items():
        _row(name, attempt(handle))
    for name, address in ADDRESSES.items():
        _row(
            f"address {name}",
            attempt(echo("400 Bad Request") if "quotes" in name else path_of, address),
        )


def _row(name: str, tried: Tried) -> None:
    outcome = tried.outcome.replace("|", "/").replace("\n", " ")[:110]
    print(
        f"| {name} | {outcome} | {tried.requests} | {tried.megabytes:.0f} |"
        f" {'YES' if tried.secret else 'no'} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
