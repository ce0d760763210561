"""Teacher: a language model behind a server, as judges and taggers ask it::

    config = TeacherConfig(url="http://localhost:8000/v1", model="m", cache="answers.sqlite")
    teacher = Teacher(config, "judge")
    messages = [{"role": "user", "content": "Grade it."}]
    text = await teacher.ask(messages, max_tokens=16)  # raises EndpointError
    score = await teacher.read(messages, parse, max_tokens=16)  # or None

Answers that could be read are kept in a file, so that a run that is repeated or resumed asks
nothing twice; where the file cannot be used, the run goes on without it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from ...envs.sanitise import well_formed
from .answer_cache import AnswerCache, CacheError
from .endpoint import Endpoint
from .endpoint_config import EndpointError, TeacherConfig
from .reply import CHAT, HttpReply, route_url

T = TypeVar("T")
Message = dict[str, str]

AGAIN = "I could not read that. Answer with the JSON object alone, exactly in the form I asked for."


class Teacher(Endpoint):
    """Asks the model of a `TeacherConfig`. Making one costs nothing and opens nothing.

    Args:
        who: what the model is to the user, in messages: 'judge', 'tagger'.
    """

    def __init__(self, config: TeacherConfig, who: str = "model") -> None:
        super().__init__(config, who)
        self.failures: Counter[str] = Counter()
        """Questions of `read` without a usable answer, by the kind of `EndpointError`, or
        'unparsable'.
        """
        self._file = config.cache
        self._cache = AnswerCache(config.cache) if config.cache is not None else None

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
                raise self.refusal(error) from None
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
            self.say(f"gave no usable answer ({kind}: {message}); this is said once and counted")

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
        return hashlib.sha256(route_url(self.config.url, CHAT).encode() + b"\n" + body).hexdigest()

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
        return await self.post(CHAT, body, self._text)

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
            self.say(f"goes on without its cache '{self._file}', which cannot be used: {error}")

    def _text(self, reply: HttpReply) -> str:
        """Return the text of a chat completion."""
        content, reason = reply.completion()
        if reason == "length" and not (content or "").strip():
            raise EndpointError("cut", "nothing was written before max_tokens: raise it")
        if content is None:
            raise EndpointError(
                "unreadable", f"not a chat completion: {self.redacted(reply.text)[:200]!r}"
            )
        return self.redacted(well_formed(content))
