"""Sliding window: the task and the last few turns.

The prompt stays short, but once the window moves every turn is a training sequence of its own.

Layout, for ``turns`` = 2 at the sixth observation (o0 is the opening, r the responses)::

    system | user: o0 (3 turns left out) o3 | assistant: r3 | user: o4 | assistant: r4 | user: o5

The opening is never dropped, for it holds the task. Before anything was left out the prompt is the
full history and extends itself; the note after the opening appears with the first turn left out. It
comes after the constant text, so that system and opening stay a common prefix of all prompts.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Context, History, Message, assistant, user


class SlidingWindow(Context):
    """System, opening, the last `turns` pairs of response and observation."""

    name: Literal["sliding_window"] = "sliding_window"
    turns: int = Field(
        default=2,
        ge=0,
        description=(
            "how many of the latest responses are shown; 0 shows only the opening and what is now"
        ),
    )

    def messages(self, history: History) -> list[Message]:
        """List the messages of the window; the whole history while it fits."""
        first = max(0, len(history.responses) - self.turns)
        opening = history.observations[0]
        if first:
            note = "(1 turn left out)" if first == 1 else f"({first} turns left out)"
            # The observation that the first shown response answered is the world as the window
            # finds it.
            opening = f"{opening}\n\n{note}\n\n{history.observations[first]}"
        messages = [*history.system_message(), user(opening)]
        for response, observation in zip(
            history.responses[first:], history.observations[first + 1 :], strict=True
        ):
            messages += [assistant(response), user(observation)]
        return messages
