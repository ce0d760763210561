"""Marks: private characters in messages, which tell where a rendering put each content.

`Marks` puts a mark in place of text that the template must not read, and one at the end of each
response. From the rendering it makes the parts of a conversation: runs of prompt text, and
responses that stand there unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from ..context.base import Message
from .control import Control, Run

Part: TypeAlias = Run | int
"""A run, or the index of a response."""


class Marks:
    """The marks of one rendering, told apart from all private characters in `contents`."""

    def __init__(self, contents: Sequence[str]) -> None:
        self._mark = "\ue000"
        while any(self._mark in content for content in contents):
            self._mark += "\ue001"
        self._pattern = re.compile(f"{self._mark}([01])(\\d+){self._mark}")
        self._hidden: list[str] = []

    def whole(self, content: str) -> str:
        """Hide `content` but for the white space around it, which templates trim."""
        core = content.strip()
        return content.replace(core, self._hide(core), 1) if core else content

    def spelled(self, content: str, control: Control, shown: frozenset[str] = frozenset()) -> str:
        """Hide what spells control tokens in `content`, but for those `shown`."""
        pieces = control.flagged(content)
        return "".join(
            self._hide(text) if flag and text not in shown else text for text, flag in pieces
        )

    def end(self, response: int) -> str:
        """Return the mark to put after a response."""
        return f"{self._mark}1{response}{self._mark}"

    def unmarked(self, text: str) -> str:
        """Put the contents back in their places in a rendering."""
        return self._pattern.sub(
            lambda mark: self._hidden[int(mark[2])] if mark[1] == "0" else "", text
        )

    def complete(self, text: str) -> bool:
        """Tell whether everything that was hidden is in the rendering."""
        return set(range(len(self._hidden))) == {
            int(i) for kind, i in self._pattern.findall(text) if kind == "0"
        }

    def parts(
        self, text: str, responses: Sequence[str], control: Control, *, whole: bool
    ) -> list[Part]:
        """Cut a rendering into runs of prompt text and responses.

        A response counts as one only if it stands unchanged before its mark, but for white space
        before it, which some templates trim. With `whole`, contents stay in one piece.
        """
        parts: list[Part] = []
        run: list[tuple[str, bool]] = []
        position = 0
        for match in self._pattern.finditer(text):
            run.append((text[position : match.start()], False))
            position = match.end()
            kind, i = match[1], int(match[2])
            if kind == "0":
                content = self._hidden[i]
                run += [(content, True)] if whole else control.flagged(content)
            else:
                said = "".join(piece for piece, _ in run)
                response = responses[i] if said.endswith(responses[i]) else responses[i].lstrip()
                if said.endswith(response):
                    parts += [_joined(_without_end(run, len(response))), i]
                    run = []
        return [*parts, _joined([*run, (text[position:], False)])]

    def _hide(self, text: str) -> str:
        self._hidden.append(text)
        return f"{self._mark}0{len(self._hidden) - 1}{self._mark}"


def _without_end(run: list[tuple[str, bool]], length: int) -> list[tuple[str, bool]]:
    """Return a run without its last characters."""
    kept = list(run)
    while length:
        text, flag = kept.pop()
        if len(text) > length:
            kept.append((text[:-length], flag))
        length = max(0, length - len(text))
    return kept


def _joined(pieces: list[tuple[str, bool]]) -> Run:
    """Join neighbours without a flag, and leave out what is empty."""
    run: list[tuple[str, bool]] = []
    for text, flag in pieces:
        if run and not flag and not run[-1][1]:
            run[-1] = (run[-1][0] + text, False)
        elif text:
            run.append((text, flag))
    return tuple(run)


def owners(messages: Sequence[Message], responses: Sequence[str]) -> dict[int, int]:
    """Map each message that is a response to its number, in order.

    The message holds the same string object, else the latest equal one.
    """
    found: dict[int, int] = {}
    last = len(responses)
    for i in range(len(messages) - 1, -1, -1):
        if messages[i]["role"] != "assistant":
            continue
        content = messages[i]["content"]
        owner = next((j for j in range(last - 1, -1, -1) if responses[j] is content), None)
        if owner is None:
            owner = next((j for j in range(last - 1, -1, -1) if responses[j] == content), None)
        if owner is not None:
            found[i] = last = owner
    return found


def folded(messages: Sequence[Message]) -> list[Message]:
    """Move system messages into the first user message."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    rest = [m for m in messages if m["role"] != "system"]
    if not system:
        return rest
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": system}, *rest]
    return [{"role": "user", "content": f"{system}\n\n{rest[0]['content']}"}, *rest[1:]]


def merged(messages: Sequence[Message]) -> list[Message]:
    """Join neighbours of the same role, for templates that insist on alternation."""
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1] = {
                "role": message["role"],
                "content": f"{joined[-1]['content']}\n\n{message['content']}",
            }
        else:
            joined.append(message)
    return joined


def same(one: str, other: str) -> bool:
    """Compare two texts but for white space."""
    return "".join(one.split()) == "".join(other.split())


def with_contents(messages: Sequence[Message], contents: Mapping[int, str]) -> list[Message]:
    """Return the messages with some contents replaced."""
    return [
        {"role": m["role"], "content": contents.get(i, m["content"])}
        for i, m in enumerate(messages)
    ]
