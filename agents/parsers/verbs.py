"""Verbs: ``click buy now`` for ``click[buy now]``, where actions are a verb and its argument.

For small models that copy: every word of the argument follows a space, as it does on the page it is
copied from, so it is the same token there and here.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from .base import Parsed, Parser
from .line import Line

_CALL = re.compile(r"(\w+)\[(.+)\]")


class Verbs(Parser):
    """One command on one line, as `line` reads it; a known verb gets brackets for the rest.

    Any other line is the action as it stands.
    """

    name: Literal["verbs"] = "verbs"
    verbs: tuple[str, ...] = Field(
        min_length=1, description="verbs that take an argument in brackets"
    )

    @property
    def expects(self) -> str:
        """Say what a response is: one command, by its verbs."""
        return (
            f"Answer with one command on a single line, without brackets, such as: {self.verbs[0]}"
            " words"
        )

    def parse(self, text: str) -> Parsed:
        """Read the only line that is not blank, with the brackets that its verb takes."""
        parsed = Line().parse(text)
        verb, _, argument = (parsed.action or "").partition(" ")
        if verb in self.verbs and argument.strip():
            return Parsed(f"{verb}[{argument.strip()}]", parsed.thought)
        return parsed

    def render(self, action: str, thought: str | None = None, tag: str | None = None) -> str:
        """Write the command without its brackets: this format has no place for a thought.

        An action that is a known verb and an argument without brackets cannot be said; it comes
        back with them.
        """
        call = _CALL.fullmatch(action.strip())
        if call and call[1] in self.verbs and call[2] == call[2].strip():
            return f"{call[1]} {call[2]}"
        return action.strip()
