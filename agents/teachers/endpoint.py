"""Endpoint: a language model behind an OpenAI-compatible server, as judges and taggers ask it::

    config = EndpointConfig(url="http://localhost:8000/v1", model="m", cache="answers.sqlite")
    endpoint = Endpoint(config, "judge")
    messages = [{"role": "user", "content": "Grade it."}]
    text = await endpoint.ask(messages, max_tokens=16)  # raises EndpointError
    score = await endpoint.read(messages, parse, max_tokens=16)  # or None

Answers that could be read are kept in a file, so that a run that is repeated or resumed asks
nothing twice; where the file cannot be used, the run goes on without it. A server that does not
answer is not asked for a while (`Breaker`). No connection outlives the questions that are under
way, so any event loop may ask. Neither the key nor a password in the address is ever part of a
message.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from ...envs.sanitise import well_formed
from ...foundation.errors import UserError
from ...foundation.printable import visible
from .answer_cache import AnswerCache, CacheError
from .breaker import Breaker, RateLimit
from .endpoint_config import EndpointConfig, EndpointError
from .reply import completions_url, read_reply, secrets_of, shown_url

if TYPE_CHECKING:
    import ssl

    import httpx

logger = logging.getLogger(__name__)

T = TypeVar("T")
Message = dict[str, str]

BACKOFF = 0.5
"""Seconds before the second attempt; they double from attempt to attempt, up to a minute."""
LARGEST = 1_000_000
"""Bytes of a reply, unpacked; what is longer is no answer."""
LONGEST_WAIT = 600.0
"""A server that asks for a longer break than this, in seconds, is unavailable."""
AGAIN = "I could not read that. Answer with the JSON object alone, exactly in the form I asked for."


@dataclass(slots=True)
class _Link:
    """The connections and slots that the questions of one event loop share."""

    client: httpx.AsyncClient
    slots: asyncio.Semaphore
    users: int = 0


class Endpoint:
    """Asks the model of an `EndpointConfig`. Making one costs nothing and opens nothing.

    Args:
        who: what the model is to the user, in messages: 'judge', 'tagger'.
    """

    def __init__(self, config: EndpointConfig, who: str = "model") -> None:
        self.config, self.who = config, who
        self.failures: Counter[str] = Counter()
        """Questions of `read` without a usable answer, by the kind of `EndpointError`, or
        'unparsable'.
        """
        self._url = completions_url(config.url)
        self._cache = AnswerCache(config.cache) if config.cache is not None else None
        self._rate = (
            RateLimit(config.requests_per_minute)
            if config.requests_per_minute is not None
            else None
        )
        self._breaker = Breaker(config.timeout)
        self._links: dict[asyncio.AbstractEventLoop, _Link] = {}
        self._begun = False

    async def ask(
        self,
        messages: Sequence[Message],
        *,
        temperature: float = 0.0,
        max_tokens: int,
        seed: int = 0,
    ) -> str:
        """Ask the model, or the cache if it was asked before. Raises EndpointError, UserError."""
        body = self._question(messages, max_tokens, temperature, seed)
        answer = await self._answer(body)
        await self._keep(body, answer)
        return answer

    async def read(
        self, messages: Sequence[Message], parse: Callable[[str], T | None], *, max_tokens: int
    ) -> T | None:
        """Ask for what `parse` reads from the answer, at temperature 0; once more if that is None.

        None where it still cannot be read or the endpoint fails: that is counted in `failures` and
        warned about once per kind; only what could be read is kept. Raises UserError if the first
        question of all is refused: the key or the model is wrong.
        """
        asked: list[tuple[bytes, str]] = []
        found: T | None = None
        try:
            for _ in range(2):
                again = (
                    [
                        {"role": "assistant", "content": asked[0][1]},
                        {"role": "user", "content": AGAIN},
                    ]
                    if asked
                    else []
                )
                body = self._question([*messages, *again], max_tokens)
                asked.append((body, await self._answer(body)))
                # A server would repeat itself if it were asked the same.
                if (found := parse(asked[-1][1])) is not None:
                    break
        except EndpointError as error:
            if error.kind == "refused" and error.first:
                where = f"the {self.who} at {shown_url(self.config.url)}"
                raise UserError(f"{where} refused the first request: {error.message}") from None
            self._count(error.kind, error.message)
            return None
        if found is None:
            self._count("unparsable", f"{asked[-1][1][:200]!r}")
            return None
        for body, answer in asked:
            await self._keep(body, answer)
        return found

    def _count(self, kind: str, message: str) -> None:
        self.failures[kind] += 1
        if self.failures[kind] == 1:
            self._say(f"gave no usable answer ({kind}: {message}); this is said once and counted")

    def _say(self, what: str) -> None:
        where = f"the {self.who} '{self.config.model}' at {shown_url(self.config.url)}"
        logger.warning("%s", visible(f"{where} {self._redacted(what)}"))

    # -- one question ------------------------------------------------------------------------------

    def _question(
        self, messages: Sequence[Message], max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> bytes:
        request = {
            "model": self.config.model,
            "messages": list(messages),
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": seed,
        }
        return json.dumps(request, sort_keys=True).encode()

    def _key(self, body: bytes) -> str:
        return hashlib.sha256(self._url.encode() + b"\n" + body).hexdigest()

    async def _answer(self, body: bytes) -> str:
        """Take the answer from the cache, or from the server."""
        if self._cache is not None:
            try:
                known = await asyncio.to_thread(self._cache.get, self._key(body))
            except CacheError as error:
                self._forget_cache(error)
            else:
                if known is not None:
                    return known
        return await self._request(body)

    async def _keep(self, body: bytes, answer: str) -> None:
        if self._cache is not None:
            try:
                await asyncio.to_thread(self._cache.put, self._key(body), answer)
            except CacheError as error:
                self._forget_cache(error)

    def _forget_cache(self, error: CacheError) -> None:
        """Go on without a cache that fails: it saves time and money, a run is worth more."""
        if self._cache is not None:
            self._cache = None
            self._say(
                f"goes on without its cache '{self.config.cache}', which cannot be used: {error}"
            )

    async def _request(self, body: bytes) -> str:
        first, self._begun = not self._begun, True
        headers = self._headers()
        async with self._link() as link:
            for attempt in count():
                probe = False
                try:
                    async with link.slots:
                        probe = self._admitted()
                        if self._rate is not None:
                            await asyncio.sleep(self._rate.reserve(time.monotonic()))
                        return await self._attempt(link.client, body, headers)
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
        self, client: httpx.AsyncClient, body: bytes, headers: dict[str, str]
    ) -> str:
        """Send one request. Every failure is an EndpointError, and the breaker hears of it."""
        began = time.monotonic()
        try:
            text = await self._exchange(client, body, headers)
        except EndpointError as error:
            if error.silent:
                self._breaker.failed(began, time.monotonic())
            elif not error.passing:
                self._breaker.answered()
            raise
        self._breaker.answered()
        return text

    async def _exchange(
        self, client: httpx.AsyncClient, body: bytes, headers: dict[str, str]
    ) -> str:
        import httpx

        try:
            async with (
                asyncio.timeout(self.config.timeout),
                client.stream("POST", self._url, content=body, headers=headers) as response,
            ):
                reply = await read_reply(response, LARGEST)
        except (TimeoutError, httpx.TimeoutException):
            message = f"no answer within {self.config.timeout:g} seconds"
            raise EndpointError("timeout", message, passing=True, silent=True) from None
        except (
            Exception
        ) as error:  # what a network can raise has no end; groups of exceptions are among it
            # A connection that fails or breaks may hold the next time; an address or a protocol
            # that is wrong stays so.
            passing = isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError))
            message = self._redacted(f"{type(error).__name__}: {error}")
            raise EndpointError("unavailable", message, passing=passing, silent=True) from None
        status, said = reply.status, self._redacted(reply.complaint())
        if status == 429 or status >= 500:
            raise EndpointError(
                "unavailable",
                f"status {status}: {said}",
                passing=True,
                silent=status != 429,
                after=reply.retry_after,
            )
        if not 200 <= status < 300:
            raise EndpointError("refused", f"status {status}: {said}")
        if reply.trouble:
            raise EndpointError("unreadable", reply.trouble)
        content, reason = reply.completion()
        if reason == "length" and not (content or "").strip():
            raise EndpointError("cut", "nothing was written before max_tokens: raise it")
        if content is None:
            raise EndpointError(
                "unreadable", f"not a chat completion: {self._redacted(reply.text)[:200]!r}"
            )
        return self._redacted(well_formed(content))

    def _redacted(self, text: str) -> str:
        """Remove the key, and what else is secret in the address, from a text.

        A server may quote what it was sent.
        """
        secrets = [
            os.environ.get(self.config.api_key_env, "").strip(),
            *secrets_of(self.config.url),
        ]
        for secret in sorted({s for s in secrets if len(s) >= 4}, key=len, reverse=True):
            text = text.replace(secret, "[secret]")
        return text

    def _headers(self) -> dict[str, str]:
        # Packed replies are unpacked up to a limit, but none are asked for.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        key = os.environ.get(self.config.api_key_env, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UserError(
                f"the environment variable {self.config.api_key_env} does not hold an API key"
            )
        return headers | ({"Authorization": f"Bearer {key}"} if key else {})

    @asynccontextmanager
    async def _link(self) -> AsyncIterator[_Link]:
        """Open connections and slots of the running loop, until its last question is answered."""
        loop = asyncio.get_running_loop()
        link = self._links.get(loop)
        if link is None:
            link = self._links[loop] = _Link(_client(), asyncio.Semaphore(self.config.concurrency))
        link.users += 1
        try:
            yield link
        finally:
            link.users -= 1
            if not link.users:
                del self._links[loop]
                await link.client.aclose()


def _client() -> httpx.AsyncClient:
    try:
        import httpx
    except ImportError:
        raise UserError(
            "an endpoint needs the package httpx: pip install 'turnrl[endpoint]'"
        ) from None
    # Slots and timeouts are kept here, over whole attempts; httpx would limit each read and write.
    return httpx.AsyncClient(
        timeout=None, limits=httpx.Limits(max_connections=None), verify=_certificates()
    )


@cache
def _certificates() -> ssl.SSLContext:
    """Read the certificates once: they take far longer to load than a client takes to make."""
    import httpx

    return httpx.create_ssl_context()
