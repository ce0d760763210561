"""Line: one command on one line, the shortest format, for models that do not reason in text."""

from __future__ import annotations

from typing import Literal

from ..chat.reasoning import split
from .base import Parsed, Parser


class Line(Parser):
    """One command on one line, between blank lines at most; a second line makes it unparsable.

    What a model reasons before it, in tags of its own, is its thought (see `reasoning.split`).
    """

    name: Literal["line"] = "line"

    @property
    def expects(self) -> str:
        """Say what a response is: one command."""
        return "Answer with one command on a single line and nothing else."

    def parse(self, text: str) -> Parsed:
        """Read the only line that is not blank, after the reasoning."""
        thought, answer = split(text)
        lines = [line.strip() for line in (answer or "").splitlines() if line.strip()]
        return Parsed(lines[0] if len(lines) == 1 else None, thought)

    def render(self, action: str, thought: str | None = None, tag: str | None = None) -> str:
        """Write the command alone: this format has no place for a thought."""
        return action.strip()
