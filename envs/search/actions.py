"""The grammar of actions. One canonical form, ``search[words]``, ``read[title]``, ``answer[text]``,
and two others that mean the same::

    <search>words</search>  # Search-R1's spans, text around them ignored
    {"name": "search", "arguments": {"query": "words"}}  # a tool call, also inside <tool_call> tags

`canonical` rewrites those into the first before the sanitiser looks, so that a query with an
escaped quotation mark or a line break arrives whole.

Source: the spans and that the first one counts are Search-R1's (PeterGriffinJin/Search-R1); its
rule that an answer needs two spans belongs to its prompt and is left out.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal, cast

from ..sanitise import composed
from ..tools import tool

Verb = Literal["search", "read", "answer"]
ARGUMENTS: dict[Verb, str] = {"search": "query", "read": "title", "answer": "answer"}
"""The argument of each tool."""
LONGEST = 512
"""Characters of an action at most."""
HELP = "write search[words], read[title] or answer[text]"

_VERBS = "search|read|answer"
_BRACKETS = re.compile(rf"({_VERBS})\s*\[(.*)\]", re.IGNORECASE | re.DOTALL)
_SPAN = re.compile(rf"<({_VERBS})>(.*?)</\1>", re.DOTALL)
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SearchAction:
    """An action that the player wants; `text` is not blank and in Unicode's composed form."""

    verb: Verb
    text: str

    def __str__(self) -> str:
        return f"{self.verb}[{self.text}]"


TOOLS = [
    tool("search", "Look for pages that contain these words.", query="the words"),
    tool("read", "Show a page by its title.", title="the title"),
    tool(
        "answer",
        "Give the final answer. This ends the episode.",
        answer="the answer, as short as possible",
    ),
]


def canonical(text: str) -> str:
    """Rewrite a span or a tool call in canonical form; any other text stays as it is.

    Never raises, for any text.
    """
    # Nothing that long can be an action; it is left to the sanitiser, which refuses it without
    # looking.
    if len(text) > 16 * LONGEST:
        return text
    # A call before a span: the text of an argument may hold something like a span.
    action = _bracketed(text) or _called(text) or _spanned(text)
    return text if action is None else str(action)


def parse(text: str) -> SearchAction | None:
    """Read an action in canonical form.

    None where there is no known verb, nothing in the brackets, or something around them.
    """
    return _bracketed(text)


def _bracketed(text: str) -> SearchAction | None:
    match = _BRACKETS.fullmatch(text.strip())
    return _action(match[1], match[2]) if match else None


def _spanned(text: str) -> SearchAction | None:
    match = _SPAN.search(text)
    return _action(match[1], match[2]) if match else None


def _called(text: str) -> SearchAction | None:
    wrapped = _CALL.search(text)
    call = _loads(wrapped[1] if wrapped else text)
    verb = next(
        (verb for verb in ARGUMENTS if isinstance(call, dict) and call.get("name") == verb), None
    )
    if verb is None:
        return None
    arguments = call.get("arguments")
    # Endpoints that speak OpenAI's protocol give the arguments as a string of JSON.
    if isinstance(arguments, str):
        arguments = _loads(arguments)
    value = arguments.get(ARGUMENTS[verb]) if isinstance(arguments, dict) else None
    return _action(verb, value) if isinstance(value, str) else None


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _action(verb: str, text: str) -> SearchAction | None:
    words = composed(" ".join(text.split()))
    return SearchAction(cast(Verb, verb.lower()), words) if words else None
