"""The routes of a vLLM server that take token ids, for `fake_server`: a table of pairs plays."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

from turnrl.agents.engines.base import EngineError, Sampling

from ..outsider.engine import EchoEngine
from .fake_server import Answer, Reply

LIMIT = 64
"""Tokens of its longest context."""


class TokenServer:
    """Answers as vLLM does; `routes` go to a server.

    Args:
        processed: log-probabilities are those after the temperature.
    """

    def __init__(self, *, processed: bool = True) -> None:
        self.processed = processed
        self.lock = threading.Lock()
        self.hidden: set[str] = set()
        """Fields of a choice that are not told."""
        self.changes: dict[str, Any] = {}
        """Fields of a choice that are told otherwise."""

    @property
    def routes(self) -> dict[str, Answer]:
        models = {"data": [{"id": "m", "max_model_len": LIMIT}, {"id": "other"}]}
        return {
            "/completions": self.complete,
            "/models": lambda body: Reply(body=json.dumps(models)),
        }

    def complete(self, body: dict[str, Any]) -> Reply:
        prompt, engine = body["prompt"], EchoEngine(LIMIT)
        if len(prompt) + body["max_tokens"] > LIMIT:
            return Reply(400, json.dumps({"message": f"the maximum context length is {LIMIT}"}))
        fields = {name: body[name] for name in Sampling.model_fields if name in body}
        sampling = Sampling(**fields | {"top_k": max(fields["top_k"], 0)})
        try:
            scores = asyncio.run(engine._score(None, prompt, 1))
            said = asyncio.run(engine.conversation("only").generate(prompt, sampling))
        except EngineError as error:
            return Reply(400, json.dumps({"error": {"message": str(error)}}))
        temperature = sampling.temperature if self.processed else 1.0
        known = engine.logprobs(prompt[-1], temperature or 1.0)
        choice: dict[str, Any] = {"token_ids": said.token_ids, "prompt_token_ids": prompt}
        choice["finish_reason"] = said.finish_reason
        if "logprobs" in body:
            before = [prompt[-1], *said.token_ids]
            told = said.logprobs
            if not self.processed:
                told = [engine.logprobs(a)[b] for a, b in zip(before, said.token_ids, strict=False)]
            best = sorted(range(len(known)), key=lambda i: -known[i])[: body["logprobs"]]
            choice["logprobs"] = {
                "token_logprobs": told,
                "top_logprobs": [{f"word {i}": known[i] for i in best}],
            }
        if "prompt_logprobs" in body:
            choice["prompt_logprobs"] = [
                None,
                *({str(i): {"logprob": p}} for i, p in zip(prompt[1:], scores, strict=True)),
            ]
        shown = {key: choice[key] for key in choice if key not in self.hidden} | self.changes
        usage = {"prompt_tokens_details": {"cached_tokens": 2}}
        return Reply(body=json.dumps({"choices": [shown], "usage": usage}))
