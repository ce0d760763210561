"""Models behind the chat route, for `fake_server`: what a player is answered, turn by turn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from turnrl.agents.episode import Episode

from .fake_server import Answer, Reply

Body = dict[str, Any]
USAGE = {"prompt_tokens": 100, "completion_tokens": 10}


def chat(message: Any, reason: str = "stop", usage: Any = USAGE, **choice: Any) -> Reply:
    """A chat completion."""
    whole = {"choices": [{"message": message, "finish_reason": reason, **choice}], "usage": usage}
    return Reply(body=json.dumps(whole))


def text(content: str, **fields: Any) -> Reply:
    """A chat completion of words."""
    return chat({"role": "assistant", "content": content}, **fields)


def call(*commands: str, tool: str = "act", content: str | None = None, **fields: Any) -> Reply:
    """A chat completion of real tool calls."""
    calls = [
        {
            "id": f"x{i}",
            "type": "function",
            "function": {"name": tool, "arguments": json.dumps({"action": command})},
        }
        for i, command in enumerate(commands)
    ]
    message = {"role": "assistant", "content": content, "tool_calls": calls}
    return chat(message, "tool_calls", **fields)


def opening(body: Body) -> str:
    """What the world said first."""
    return next(str(m["content"]) for m in body["messages"] if m["role"] == "user")


def turn(body: Body) -> int:
    """How many responses the conversation has."""
    return sum(message["role"] == "assistant" for message in body["messages"])


def expert(
    episodes: Iterable[Episode], say: Callable[[str], Reply] = text
) -> Callable[[Body], Reply]:
    """A model that knows these episodes by their opening, and says their actions again."""
    known = {episode.opening: [t.action or "" for t in episode.turns] for episode in episodes}
    assert len(known) == len(list(episodes)), "two tasks begin alike"
    return lambda body: say(known[opening(body)][turn(body)])


def failing(model: Answer, openings: Iterable[str], how: Reply) -> Answer:
    """A model behind a server that fails for good where the world begins so."""
    broken = set(openings)
    return lambda body: how if opening(body) in broken else model(body)
