"""Tool call: one call of a tool, as chat models write it. Written in the Hermes style::

    <tool_call>{"name": "act", "arguments": {"action": "go north"}}</tool_call>

and read in the forms of other families too (`calls.find_calls`). Text before the call is the
thought.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from ...envs.tools import tool
from ..chat.calls import Call, find_calls
from ..chat.reasoning import split
from .base import Parsed, Parser

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_ARGUMENT = "action"
_MARKUP = re.compile(
    r"(?:\s|```\w*|</?\w*:?(?:tool_?calls?|function_?calls?)>|<[|\uff5c][^<>]{1,40}[|\uff5c]>|<\|tool_call>|"
    r"\[TOOL_CALLS\]|\[|functools|<\uff5cDSML\uff5c\w+>|>>>|Action:|print\(|"
    r"(?<=>)(?:function|assistant|commentary to=))+\Z",
    re.IGNORECASE,
)
"""What stands around a call and is no thought."""
_NEAR = 300
"""Characters before a call that may be markup."""


class ToolCall(Parser):
    """One call of the tool `tool`, whose argument ``action``, or only argument, is the command.

    Two calls are none, since nobody can say which was meant; so is a call of another tool. What is
    only mentioned in passing does not count beside a call in the markup of calls. What follows the
    call is ignored; a call that was cut inside its argument is none.
    """

    name: Literal["tool_call"] = "tool_call"
    tool: str = Field(
        default="act", min_length=1, description="name of the tool that must be called"
    )

    @property
    def expects(self) -> str:
        """Say which tool a response calls."""
        return f"Answer with one tool call: {self.render('command')}"

    @property
    def stop(self) -> tuple[str, ...]:
        """List the end of the call, which ends the response."""
        return (_CLOSE,)

    def shown(self, tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """List the world's tool of this name, with the argument that is read."""
        known = [given["function"] for given in tools if given["function"]["name"] == self.tool]
        described = str(known[0].get("description", "")) if known else ""
        return [tool(self.tool, described, **{_ARGUMENT: "the whole command"})] if known else []

    def parse(self, text: str) -> Parsed:
        """Read action and thought, stripped; a call of another tool or an empty one is none."""
        reasoned, answer = split(text)
        calls = _meant(find_calls(answer or ""), answer or "")
        before = (answer or "")[: calls[0].start] if calls else ""
        thought = "\n".join(filter(None, (reasoned, _cut(before)[0]))) or None
        return Parsed(self._action(calls[0]) if len(calls) == 1 else None, thought)

    def render(self, action: str, thought: str | None = None, tag: str | None = None) -> str:
        """Write the call, after the thought if there is one."""
        call = json.dumps(
            {"name": self.tool, "arguments": {_ARGUMENT: action.strip()}}, ensure_ascii=False
        )
        return (f"<think>{thought}</think>" if thought else "") + f"{_OPEN}{call}{_CLOSE}"

    def _action(self, call: Call) -> str | None:
        given = call.arguments
        only = next(iter(given.values())) if len(given) == 1 else None
        command = given.get(_ARGUMENT, only)
        return (
            (command.strip() or None)
            if call.name == self.tool and isinstance(command, str)
            else None
        )


def _meant(calls: list[Call], text: str) -> list[Call]:
    """Choose the calls in markup; without any those in JSON or XML, then those in Python."""
    marked = [call for call in calls if _cut(text[: call.start])[1].strip("[\n\r\t ")]
    return marked or [call for call in calls if not call.loose] or calls


def _cut(before: str) -> tuple[str, str]:
    """Split what stands before a call into words and markup."""
    tail = before[-_NEAR:]
    words = _MARKUP.sub("", tail)
    return (before[: len(before) - len(tail)] + words).strip(), tail[len(words) :]
