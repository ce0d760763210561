"""Wire: what the chat route is sent and what it answers, with real tool calls where there are any.

A call that came as one is written into the text of its turn as the parser ``tool_call`` reads it,
so that the rest of the house sees a response like any other; when the conversation is sent again it
goes back as the call that it was, and what the world answered as the result of that call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...envs.sanitise import well_formed
from ..context.base import Message
from ..episode import FinishReason
from ..teachers.endpoint_config import EndpointError
from ..teachers.meter import Usage
from ..teachers.reply import HttpReply, are_ids, are_logprobs

Wired = dict[str, Any]
"""A message as the chat route takes it."""


@dataclass(frozen=True, slots=True)
class Said:
    """A response of the chat route."""

    content: str
    calls: tuple[tuple[str, str], ...]
    """The name and the arguments of each tool call, as the model wrote them."""
    finish_reason: FinishReason
    written: int
    """Tokens that the server counted."""
    prompt_ids: list[int] | None = None
    """The whole prompt; None unless the server told it, the response and its log-probabilities."""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()

    @property
    def text(self) -> str:
        """Return the response as the parser ``tool_call`` reads it.

        Its content alone where there are no calls.
        """
        calls = (_written(name, arguments) for name, arguments in self.calls)
        return self.content + "".join(calls)


def _written(name: str, arguments: str) -> str:
    try:
        given = json.loads(arguments)
    except (ValueError, RecursionError):
        given = arguments
    call = json.dumps({"name": name, "arguments": given}, ensure_ascii=False)
    return f"<tool_call>{call}</tool_call>"


def wire_messages(messages: Iterable[Message], said: Mapping[str, Said]) -> list[Wired]:
    """Return the messages of a context as the chat route takes them.

    Args:
        said: responses with tool calls, by their text; a message of the player with this text goes
            back as those calls, and the message after it as their result.
    """
    wired: list[Wired] = []
    open_calls: list[str] = []
    count = 0
    for message in messages:
        role, content = message["role"], well_formed(message["content"])
        before = said.get(message["content"]) if role == "assistant" else None
        if open_calls:
            wired += [{"role": "tool", "tool_call_id": id, "content": content} for id in open_calls]
            open_calls = []
        elif before is not None:
            open_calls = [f"call{count + i:05d}" for i in range(len(before.calls))]
            count += len(open_calls)
            calls = [
                {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
                for id, (name, arguments) in zip(open_calls, before.calls, strict=True)
            ]
            wired.append({"role": role, "content": before.content or None, "tool_calls": calls})
        else:
            wired.append({"role": role, "content": content})
    return wired


def read_said(reply: HttpReply, clean: Callable[[str], str]) -> Said:
    """Read a response of the chat route, its texts through `clean`.

    Raises EndpointError for anything else.
    """
    data = reply.json()
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise EndpointError("unreadable", "not a chat completion")
    content, calls = message.get("content"), _calls(message.get("tool_calls"), clean)
    if not isinstance(content, str | None) or ("content" not in message and not calls):
        raise EndpointError("unreadable", "a chat completion whose content is no text")
    reason = choice.get("finish_reason")
    if reason == "content_filter":
        raise EndpointError("unreadable", "the server withheld the answer (content_filter)")
    usage = Usage.of(data)
    said = Said(
        clean(content or ""),
        calls,
        "length" if reason == "length" else "stop",
        0 if usage is None else usage.written,
    )
    return _with_tokens(said, choice, choice.get("prompt_token_ids", data.get("prompt_token_ids")))


def _calls(given: Any, clean: Callable[[str], str]) -> tuple[tuple[str, str], ...]:
    """Read tool calls. Raises EndpointError for what is none."""
    calls = []
    for call in [] if given is None else given if isinstance(given, list) else [given]:
        function = call.get("function") if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        arguments = function.get("arguments") if isinstance(function, dict) else None
        if isinstance(arguments, dict):
            arguments = json.dumps(arguments)
        if not isinstance(name, str) or not isinstance(arguments, str):
            raise EndpointError("unreadable", "a tool call without a name or arguments")
        calls.append((clean(name), clean(arguments)))
    return tuple(calls)


def _with_tokens(said: Said, choice: dict[str, Any], prompt: Any) -> Said:
    """Add token ids and log-probabilities, if the server told all of them."""
    found, ids = choice.get("logprobs"), choice.get("token_ids")
    entries = found.get("content") if isinstance(found, dict) else None
    if not isinstance(entries, list):
        return said
    logprobs = [entry.get("logprob") if isinstance(entry, dict) else None for entry in entries]
    if not are_ids(ids) or not are_ids(prompt) or not are_logprobs(logprobs):
        return said
    if not prompt or not 0 < len(ids) == len(logprobs):
        return said
    told = tuple(min(float(p), 0.0) for p in logprobs)
    return replace(said, prompt_ids=prompt, token_ids=tuple(ids), logprobs=told)
