"""Context: what the player sees at each turn, as chat messages. The one hook is `messages`::

    class LastOnly(Context):
        name: Literal["last_only"] = "last_only"

        def messages(self, history):
            return [history.system_message(), user(history.observations[-1])]

A Context is a pure function of the history; `agents/chat/chat.py` finds out by itself whether the
new messages extend the old prompt verbatim (then the KV cache and the training sequence go on) or
not (then a new sequence begins).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from ...foundation.errors import PluginError, boundary
from ...foundation.plugins import Plugin, Slot


class Message(TypedDict):
    """One chat message: its role and its content."""

    role: str
    content: str


def user(content: str) -> Message:
    """Make a message of the world."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """Make a message of the player."""
    return {"role": "assistant", "content": content}


@dataclass(slots=True)
class History:
    """All that happened so far in a conversation.

    The player is to move when ``len(observations) == len(responses) + 1``.
    """

    system: str = ""
    """Instructions of the world and the parser; empty for none."""
    observations: list[str] = field(default_factory=list)
    """The opening, then what followed each response."""
    responses: list[str] = field(default_factory=list)
    """What the player wrote, verbatim, without stop tokens."""

    def system_message(self) -> list[Message]:
        """Return the system prompt as a list of no or one message."""
        return [{"role": "system", "content": self.system}] if self.system else []


class Context(Plugin):
    """Base of the slot ``agents.context``."""

    @abstractmethod
    def messages(self, history: History) -> list[Message]:
        """List the messages shown before the next response. Must not change `history`."""


def shown(context: Context, history: History) -> list[Message]:
    """Ask a context for its messages. Raises PluginError if it raises or answers something else."""
    what = f"context '{context.name}'"
    with boundary(what):
        answer: Any = context.messages(history)
    is_list = isinstance(answer, Sequence) and not isinstance(answer, str)
    if not is_list or not all(
        isinstance(m, Mapping) and _are_texts(m.get("role"), m.get("content")) for m in answer
    ):
        raise PluginError(
            f"{what} answered {answer!r:.80}: expected a list of messages with the texts role and"
            " content"
        )
    return list(answer)


def _are_texts(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


CONTEXTS: Slot[Context] = Slot("turnrl.agents.context", Context, "Contexts")
