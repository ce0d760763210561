"""ChatRoute: the chat route of one server, asked with as much as it takes.

Servers differ in what they accept beside messages. What is only there to say the usual thing
(temperature 1), to make reruns equal (a seed) or to learn more (token ids) is left out once the
server has refused it; what would change how the model plays is never left out.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from ...envs.sanitise import well_formed
from ...foundation.printable import visible
from ..engines.base import ContextOverflow, EngineError, Sampling
from ..teachers.endpoint import Endpoint
from ..teachers.endpoint_config import EndpointError
from ..teachers.reply import CHAT, HttpReply
from .wire import Said, Wired, read_said

logger = logging.getLogger(__name__)

TOKENS: dict[str, Any] = {
    "return_token_ids": True,
    "logprobs": True,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}
"""What only servers with token ids take: the ids, and the settings that shape a distribution."""
USUAL: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0}
"""Values that mean the same as nothing."""
FREE = ("seed", "tool_choice", "parallel_tool_calls")
"""What may be missing: reruns differ, or a model may answer without a call."""
SEEDS = 2**31
"""Servers keep seeds in 32 bits."""
_TOO_LONG = re.compile(r"context[ _-]?(length|window|size)|prompt is too long", re.IGNORECASE)
_KEYS = (401, 403, 404)
"""Statuses of a wrong key or an unknown model."""


class ChatRoute:
    """Asks one server for responses to messages.

    Args:
        endpoint: the server.
        sampling: how responses are sampled; `seed` is given with each request.
    """

    def __init__(self, endpoint: Endpoint, sampling: Sampling) -> None:
        self.endpoint, self.sampling = endpoint, sampling
        self.left_out: set[str] = set()
        """Fields that the server has refused."""
        self._answered = False

    async def ask(self, messages: list[Wired], tools: list[dict[str, Any]], seed: int) -> Said:
        """Return the response to a conversation.

        Raises:
            ContextOverflow: the model cannot read so much.
            EngineError: the request failed for good.
            UserError: nothing was ever answered, and the key or the model is wrong.
            BudgetSpent: the budget is.
        """
        while True:
            before = len(self.left_out)
            body = self.body(messages, tools, seed)
            try:
                said = await self.endpoint.post(CHAT, json.dumps(body).encode(), self._read)
            except EndpointError as error:
                if self._takes_less(error, body) or len(self.left_out) > before:
                    continue
                if error.status in _KEYS and not self._answered:
                    raise self.endpoint.refusal(error) from None
                if error.status == 400 and _TOO_LONG.search(error.message):
                    raise ContextOverflow(error.message) from None
                raise EngineError(str(error)) from error
            self._answered = True
            return said

    def body(self, messages: list[Wired], tools: list[dict[str, Any]], seed: int) -> dict[str, Any]:
        """Return what is sent, without what the server has refused before."""
        sampling = self.sampling
        body: dict[str, Any] = {
            "model": self.endpoint.config.model,
            "messages": messages,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed % SEEDS,
            **TOKENS,
        }
        if sampling.top_k:
            body["top_k"] = sampling.top_k
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if tools:
            body |= {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False}
        if "max_tokens" in self.left_out:
            body["max_completion_tokens"] = body["max_tokens"]
        return {key: value for key, value in body.items() if key not in self.left_out}

    def _takes_less(self, error: EndpointError, body: dict[str, Any]) -> bool:
        """Leave out what the server has refused; False if nothing more can be."""
        if error.status not in (400, 422) or _TOO_LONG.search(error.message):
            return False
        spare = [key for key in body if self._is_spare(key, body[key])]
        named = {key for key in spare if re.search(rf"\b{key}\b", error.message)}
        if not named and not self._answered:  # some say only that something is wrong
            named = set(TOKENS) & set(spare)
        if named & TOKENS.keys():
            named |= set(TOKENS) & set(spare)
        self.left_out |= named
        for key in sorted(named - TOKENS.keys()):
            where = f"'{self.endpoint.config.model}'"
            logger.info("%s", visible(f"the server of {where} takes no '{key}': it is left out"))
        return bool(named)

    @staticmethod
    def _is_spare(key: str, value: Any) -> bool:
        usual = TOKENS | USUAL
        return key in FREE or key == "max_tokens" or (key in usual and value == usual[key])

    def _read(self, reply: HttpReply) -> Said:
        return read_said(reply, lambda text: self.endpoint.redacted(well_formed(text)))
