"""Parser: from what the model wrote to an action. The one hook is `parse`::

    class Upper(Parser):
        name: Literal["upper"] = "upper"
        expects: ClassVar[str] = "Answer with one command in capitals."

        def parse(self, text):
            return Parsed(text.lower()) if text.isupper() else Parsed(None)

A response that cannot be parsed is a turn with `valid_action` False and an observation that says
what is expected; the world is not stepped.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...foundation.errors import PluginError, boundary
from ...foundation.plugins import Plugin, Slot


@dataclass(frozen=True, slots=True)
class Parsed:
    """An action, or None; and the reasoning before it, if the format has one."""

    action: str | None
    thought: str | None = None
    tag: str | None = None
    """The kind of reasoning, in a format that knows several: 'planning', 'explore', ..."""


class Parser(Plugin):
    """Base of the slot ``agents.parsers``."""

    @property
    @abstractmethod
    def expects(self) -> str:
        """Say in one sentence which format a response has, for the player."""

    @property
    def stop(self) -> tuple[str, ...]:
        """List strings that end a response in this format, beside the template's end of a turn."""
        return ()

    @property
    def marks(self) -> tuple[str, ...]:
        """List strings that hold the format together, such as tags.

        They are single tokens where a tokenizer is made for it.
        """
        return ()

    def shown(self, tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """List those of the world's tools whose calls are read, as a template should show them."""
        return []

    @abstractmethod
    def parse(self, text: str) -> Parsed:
        """Read the action in a response. Never raises, for any text."""

    @abstractmethod
    def render(self, action: str, thought: str | None = None, tag: str | None = None) -> str:
        """Write what a perfect player would for this action: ``parse(render(a)).action == a``.

        Formats without room for a thought, or for its kind, leave it out.
        """


def read_action(parser: Parser, text: str) -> Parsed:
    """Ask a parser for the action in a response. Raises PluginError for a wrong answer."""
    what = f"parser '{parser.name}'"
    with boundary(what):
        parsed: Any = parser.parse(text)
    if not isinstance(parsed, Parsed) or not all(
        part is None or isinstance(part, str)
        for part in (parsed.action, parsed.thought, parsed.tag)
    ):
        raise PluginError(
            f"{what} answered {parsed!r:.80}: expected Parsed(action), with an action that is text"
            " or None"
        )
    return parsed


def write_action(
    parser: Parser, action: str, thought: str | None = None, tag: str | None = None
) -> str:
    """Ask a parser for the text of an action. Raises PluginError for a wrong answer."""
    what = f"parser '{parser.name}'"
    with boundary(what):
        text: Any = parser.render(action, thought, tag)
    if not isinstance(text, str):
        raise PluginError(f"{what} rendered {text!r:.80}: expected the text of an action")
    return text


PARSERS: Slot[Parser] = Slot("turnrl.agents.parsers", Parser, "Parsers")
