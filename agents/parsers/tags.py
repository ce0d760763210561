"""Tags: ``<think>reasoning</think><action>command</action>``, the thought optional unless `require_think`."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from .base import Parsed, Parser

_SHAPE = re.compile(r"\s*(?:<think>(?P<thought>.*?)</think>\s*)?<action>(?P<action>.*?)</action>\s*", re.DOTALL)
_TAG = re.compile(r"</?(?:think|action)>")


class Tags(Parser):
    """Strict: nothing but white space outside the two blocks, exactly one of each, no tags inside them."""

    name: Literal["tags"] = "tags"
    require_think: bool = Field(default=False, description="a response without a thought is unparsable")

    @property
    def expects(self) -> str:
        """One sentence for the player."""
        if self.require_think:
            return "Answer with your reasoning and one command, as <think>reasoning</think><action>command</action>."
        return "Answer with one command as <action>command</action>, after <think>reasoning</think> if you need it."

    @property
    def stop(self) -> tuple[str, ...]:
        """The end of the action block ends the response."""
        return ("</action>",)

    def parse(self, text: str) -> Parsed:
        """Action and thought, stripped; an empty command is none."""
        match = _SHAPE.fullmatch(text)
        if match is None:
            return Parsed(None)
        thought, action = (match["thought"] or "").strip(), match["action"].strip()
        if not action or _TAG.search(action) or _TAG.search(thought) or (self.require_think and not thought):
            return Parsed(None, thought or None)
        return Parsed(action, thought or None)

    def render(self, action: str, thought: str | None = None) -> str:
        """Both blocks; without a thought only the action, unless a thought is required (then the command is given)."""
        thought = thought or (f"I will {action.strip()}." if self.require_think else None)
        return (f"<think>{thought}</think>" if thought else "") + f"<action>{action.strip()}</action>"
