"""Full history: an append-only chat.

The prompt only grows, so an episode is one training sequence (if the template does not rewrite
earlier turns) and its cost grows with its length; an episode that outgrows the model's context
stops there.
"""

from __future__ import annotations

from typing import Literal

from .base import Context, History, Message, assistant, user


class FullHistory(Context):
    """System, opening, then every response and what the world answered."""

    name: Literal["full_history"] = "full_history"

    def messages(self, history: History) -> list[Message]:
        """List the whole history, in order."""
        messages = [*history.system_message(), user(history.observations[0])]
        for response, observation in zip(history.responses, history.observations[1:], strict=True):
            messages += [assistant(response), user(observation)]
        return messages
