"""Reply: a server's answer as text; and its address, as asked and as shown."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeGuard
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

if TYPE_CHECKING:
    import httpx2

CHAT = "/chat/completions"


def route_url(url: str, route: str) -> str:
    """Return the address of a route: its path is extended, its query stays behind it.

    An address that ends in the route of chats already means the server of that route.
    """
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix(CHAT) + route
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def shown_url(url: str) -> str:
    """Return an address as it may stand in a message: without user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def secrets_of(url: str) -> list[str]:
    """Return what may be secret in an address: its password and long values of its query.

    The password is listed also as it is sent.
    """
    parts = urlsplit(url)
    passwords = []
    if parts.password is not None:
        user, password = unquote(parts.username or ""), unquote(parts.password)
        passwords = [
            parts.password,
            password,
            base64.b64encode(f"{user}:{password}".encode()).decode(),
        ]
    return [*passwords, *(value for _, value in parse_qsl(parts.query) if len(value) >= 8)]


def are_ids(values: Any) -> TypeGuard[list[int]]:
    """Tell whether a server's answer is a list of token ids."""
    return isinstance(values, list) and all(type(i) is int and i >= 0 for i in values)


def are_logprobs(values: Any) -> TypeGuard[list[float]]:
    """Tell whether a server's answer is a list of log-probabilities, up to rounding."""
    return isinstance(values, list) and all(
        isinstance(p, float | int) and not isinstance(p, bool) and math.isfinite(p) and p < 1e-3
        for p in values
    )


@dataclass(frozen=True, slots=True)
class HttpReply:
    """One answer of a server, as far as it was read."""

    status: int
    text: str
    """Its body, or the beginning of it."""
    trouble: str = ""
    """Why the body is not whole; empty if it is."""
    retry_after: float | None = None
    """Seconds that the server asks to wait."""

    @classmethod
    def of(cls, response: httpx2.Response) -> HttpReply:
        """Return what stands in a response of a `BoundedClient`."""
        text = response.content.decode("utf-8", "replace") or response.reason_phrase
        trouble, headers = str(response.extensions.get("trouble", "")), response.headers
        return cls(response.status_code, text, trouble, _retry_after(headers))

    def json(self) -> dict[str, Any]:
        """Return the reply's body as a JSON object, which is empty if it is none."""
        try:
            data = json.loads(self.text)
        except (ValueError, RecursionError):
            return {}
        return data if isinstance(data, dict) else {}

    def completion(self) -> tuple[str | None, str | None]:
        """Return the text of a chat completion and why it ended, each None if it is not there."""
        try:
            choice = self.json()["choices"][0]
            content, reason = choice["message"]["content"], choice.get("finish_reason")
        except (LookupError, TypeError, AttributeError):
            return None, None
        return content if isinstance(content, str) else None, reason if isinstance(
            reason, str
        ) else None

    def complaint(self) -> str:
        """Return what the server says about a failure, in a usual form, else its text."""
        message: Any
        try:
            data = json.loads(self.text)
            error = data.get("error", data)
            message = error if isinstance(error, str) else error.get("message") or error["detail"]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            message = self.text
        return " ".join(str(message).split())[:500]


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Read seconds from a number or a date."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return max((when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)
