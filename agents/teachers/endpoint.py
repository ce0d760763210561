"""Endpoint: a language model behind an OpenAI-compatible server, as players and teachers ask it::

    endpoint = Endpoint(EndpointConfig(url="http://localhost:8000/v1", model="m"), "judge")
    reply = await endpoint.post("/chat/completions", body, read)  # raises EndpointError

Requests that may work later are tried again, no sooner than the server says; a server that does
not answer is not asked for a while (`Breaker`). No connection outlives the requests that are under
way, so any event loop may ask. Neither the key nor a password in the address is ever part of a
message.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from ...foundation.errors import UserError
from ...foundation.printable import visible
from .breaker import Breaker, RateLimit
from .endpoint_config import EndpointConfig, EndpointError
from .meter import Meter, Usage
from .reply import HttpReply, route_url, secrets_of, shown_url

if TYPE_CHECKING:
    from openai import AsyncOpenAI

logger = logging.getLogger(__name__)

T = TypeVar("T")

BACKOFF = 0.5
"""Seconds before the second attempt; they double from attempt to attempt, up to a minute."""
LARGEST = 1_000_000
"""Bytes of a reply, where nothing longer is expected."""
LONGEST_WAIT = 600.0
"""A server that asks for a longer break than this, in seconds, is unavailable."""


@dataclass(slots=True)
class _Link:
    """The connections and slots that the requests of one event loop share."""

    client: AsyncOpenAI
    options: dict[str, Any]
    """What every request needs beside its body: without a key it names none."""
    slots: asyncio.Semaphore
    users: int = 0


class Endpoint:
    """Asks the model of an `EndpointConfig`. Making one costs nothing and opens nothing.

    Args:
        who: what the model is to the user, in messages: 'judge', 'player'.
        meter: counts the requests, and ends them when its budget is spent.
        socket: path of the Unix socket that the server listens on; the address then only names it.
    """

    def __init__(
        self,
        config: EndpointConfig,
        who: str = "model",
        meter: Meter | None = None,
        socket: str | None = None,
    ) -> None:
        self.config, self.who, self.meter, self._socket = config, who, meter, socket
        self.largest = LARGEST
        """Bytes of a reply, unpacked; what is longer is no answer."""
        self._rate = (
            RateLimit(config.requests_per_minute)
            if config.requests_per_minute is not None
            else None
        )
        self._breaker = Breaker(config.timeout)
        self._links: dict[asyncio.AbstractEventLoop, _Link] = {}
        self._begun = False

    async def post(self, route: str, body: bytes | None, read: Callable[[HttpReply], T]) -> T:
        """Send JSON to a route of the server, or only look at it without a body; read the reply.

        Args:
            route: its path below the address of the configuration.
            read: what the reply of a request that succeeded is taken for; may raise EndpointError.

        Raises:
            EndpointError: it failed for good.
            UserError: the package openai is not installed, or the key cannot be sent.
            BudgetSpent: the meter's budget is.
        """
        first, self._begun = not self._begun, True
        url = route_url(self.config.url, route)
        async with self._link() as link:
            for attempt in count():
                probe = False
                try:
                    async with link.slots:
                        probe = self._admitted()
                        if self._rate is not None:
                            await asyncio.sleep(self._rate.reserve(time.monotonic()))
                        return await self._attempt(link, url, body, read)
                except EndpointError as error:
                    error.first = first
                    wait = (
                        min(BACKOFF * 2.0 ** min(attempt, 20), 60.0)
                        if error.after is None
                        else error.after
                    )
                    last = (
                        not error.passing or attempt >= self.config.retries or wait > LONGEST_WAIT
                    )
                    if last or probe or self._breaker.open:
                        raise
                finally:
                    if probe:
                        self._breaker.probed()
                await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    def _admitted(self) -> bool:
        """Tell whether this attempt probes a silent server.

        Raises EndpointError if the server is not asked now.
        """
        may = self._breaker.admit(time.monotonic())
        if may is False:
            row = self._breaker.row
            raise EndpointError(
                "paused",
                f"not asked for a while, because {row} attempts in a row were not answered",
            )
        return may is None

    async def _attempt(
        self, link: _Link, url: str, body: bytes | None, read: Callable[[HttpReply], T]
    ) -> T:
        """Send one request. Every failure is an EndpointError, and the breaker hears of it."""
        meter = None if body is None else self.meter
        if meter is not None:
            meter.admit()
        began = time.monotonic()
        try:
            reply = self._checked(await self._exchange(link, url, body))
            if meter is not None:
                meter.add(Usage.of(reply.json()))
            answer = read(reply)
        except EndpointError as error:
            if meter is not None:
                meter.failed += 1
            if error.silent:
                self._breaker.failed(began, time.monotonic())
            elif not error.passing:
                self._breaker.answered()
            raise
        self._breaker.answered()
        if meter is not None:
            meter.seconds.append(time.monotonic() - began)
        return answer

    async def _exchange(self, link: _Link, url: str, body: bytes | None) -> HttpReply:
        """Return what the server answered, whatever its status."""
        import httpx2
        import openai

        client: Any = link.client
        ask = client.get if body is None else partial(client.post, content=body)
        try:
            async with asyncio.timeout(self.config.timeout):
                return HttpReply.of(await ask(url, cast_to=httpx2.Response, options=link.options))
        except openai.APIStatusError as error:
            return HttpReply.of(error.response)
        except (TimeoutError, openai.APITimeoutError):
            message = f"no answer within {self.config.timeout:g} seconds"
            raise EndpointError("timeout", message, passing=True, silent=True) from None
        except Exception as error:
            # What a network can raise has no end; groups of exceptions are among it.
            wrapped = isinstance(error, openai.APIConnectionError)
            cause = (error.__cause__ if wrapped else None) or error
            # A connection that fails or breaks may hold the next time; an address or a protocol
            # that is wrong stays so.
            passing = isinstance(cause, (httpx2.NetworkError, httpx2.RemoteProtocolError))
            message = self.redacted(f"{type(cause).__name__}: {cause}")
            raise EndpointError("unavailable", message, passing=passing, silent=True) from None

    def _checked(self, reply: HttpReply) -> HttpReply:
        """Return a reply that is whole and no refusal. Raises EndpointError for every other."""
        status, said = reply.status, self.redacted(reply.complaint())
        if status == 429 or status >= 500:
            raise EndpointError(
                "unavailable",
                f"status {status}: {said}",
                passing=True,
                silent=status != 429,
                after=reply.retry_after,
                status=status,
            )
        if not 200 <= status < 300:
            raise EndpointError("refused", f"status {status}: {said}", status=status)
        if reply.trouble:
            raise EndpointError("unreadable", reply.trouble)
        return reply

    def refusal(self, error: EndpointError) -> UserError:
        """Return what to tell the user where the first request of all was refused.

        The key or the model is wrong then.
        """
        where = f"the {self.who} at {shown_url(self.config.url)}"
        return UserError(f"{where} refused the first request: {error.message}")

    def say(self, what: str) -> None:
        """Say in a warning what became of requests, without what is secret."""
        where = f"the {self.who} '{self.config.model}' at {shown_url(self.config.url)}"
        logger.warning("%s", visible(f"{where} {self.redacted(what)}"))

    def redacted(self, text: str) -> str:
        """Remove the key, and what else is secret in the address, from a text.

        A server may quote what it was sent.
        """
        # The library sends these headers with every request.
        headers = os.environ.get("OPENAI_CUSTOM_HEADERS", "").splitlines()
        secrets = [
            os.environ.get(self.config.api_key_env, "").strip(),
            *(line.partition(":")[2].strip() for line in headers),
            *secrets_of(self.config.url),
        ]
        for secret in sorted({s for s in secrets if len(s) >= 4}, key=len, reverse=True):
            text = text.replace(secret, "[secret]")
        return text

    @asynccontextmanager
    async def _link(self) -> AsyncIterator[_Link]:
        """Open connections and slots of the running loop, until its last question is answered."""
        loop = asyncio.get_running_loop()
        link = self._links.get(loop)
        if link is None:
            link = self._links[loop] = self._opened()
        link.users += 1
        try:
            yield link
        finally:
            link.users -= 1
            if not link.users:
                del self._links[loop]
                await link.client.close()

    def _opened(self) -> _Link:
        """Make a client that decides nothing: retries, slots and timeouts are kept here."""
        try:
            import openai

            from .transport import BoundedClient
        except ImportError:
            raise UserError(
                "an endpoint needs the package openai: pip install 'turnrl[endpoint]'"
            ) from None
        key = os.environ.get(self.config.api_key_env, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UserError(
                f"the environment variable {self.config.api_key_env} does not hold an API key"
            )
        client = openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=self.config.url,
            timeout=None,
            max_retries=0,
            http_client=BoundedClient(self.largest, self._socket),
        )
        options = {} if key else {"headers": {"Authorization": openai.Omit()}}
        return _Link(client, options, asyncio.Semaphore(self.config.concurrency))
