"""Tags: ``<think>reasoning</think><action>command</action>``, and other kinds of reasoning."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from ..chat.reasoning import split
from .base import Parsed, Parser


class Tags(Parser):
    """Tags around thought and command, with nothing but white space outside them.

    Strict: exactly one action, no tags inside it.

    ``<think>`` is read as reasoning models write it: opened by the prompt already, more than once,
    with any words in it. Reasoning in tags of a model's own stands before what is asked for and is
    not looked at (`reasoning.split`).

    With ``thoughts: [planning, explore, reflection, monitor]`` and ``require_think`` every response
    says what kind of reasoning it is, as the reward ``meta_reasoning`` needs.
    """

    name: Literal["tags"] = "tags"
    require_think: bool = Field(
        default=False, description="take a response without a thought as unparsable"
    )
    thoughts: tuple[str, ...] = Field(
        ("think",), min_length=1, description="tags of which a thought must have one"
    )

    @field_validator("thoughts")
    @classmethod
    def _words(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "action" in value or not all(re.fullmatch(r"[a-z_]+", tag) for tag in value):
            raise ValueError("tags are lower-case words other than 'action'")
        return value

    @property
    def expects(self) -> str:
        """Say which tags a response has."""
        if len(self.thoughts) > 1:
            kinds = ", ".join(f"<{tag}>" for tag in self.thoughts)
            need = "Answer with" if self.require_think else "Answer with, if you need it,"
            return (
                f"{need} your reasoning in one of {kinds}, then one command, as"
                " <action>command</action>."
            )
        [tag] = self.thoughts
        if self.require_think:
            return (
                "Answer with your reasoning and one command, as"
                f" <{tag}>reasoning</{tag}><action>command</action>."
            )
        return (
            f"Answer with one command as <action>command</action>, after <{tag}>reasoning</{tag}>"
            " if you need it."
        )

    @property
    def stop(self) -> tuple[str, ...]:
        """List the end of the action block, which ends the response."""
        return ("</action>",)

    @property
    def marks(self) -> tuple[str, ...]:
        """List all tags, opening and closing."""
        return tuple(f"<{end}{tag}>" for tag in (*self.thoughts, "action") for end in ("", "/"))

    def parse(self, text: str) -> Parsed:
        """Read action, thought and its tag, stripped; an empty command is none."""
        reasoned, answer = split(text)
        names = "|".join(self.thoughts)
        thoughts = rf"(?:<(?P<tag>{names})>(?P<thought>.*?)</(?P=tag)>\s*)?"
        shape = rf"\s*{thoughts}<action>(?P<action>.*?)</action>\s*"
        match = re.fullmatch(shape, answer or "", re.DOTALL)
        if match is None:
            return Parsed(None, reasoned)
        own, action, stray = (
            match["thought"],
            match["action"].strip(),
            re.compile(rf"</?(?:{names}|action)>"),
        )
        native = reasoned is not None and "think" in self.thoughts
        thought = reasoned if own is None else own.strip() or None
        said = native if own is None else thought is not None
        if (
            not action
            or stray.search(action)
            or stray.search(own or "")
            or (native and own is not None)
        ):
            return Parsed(None, thought)
        if self.require_think and not said:
            return Parsed(None, thought)
        tag = match["tag"] or ("think" if native else None)
        return Parsed(action, thought, tag if len(self.thoughts) > 1 else None)

    def render(self, action: str, thought: str | None = None, tag: str | None = None) -> str:
        """Write both blocks; without a thought only the action.

        If a thought is required, it is the command.
        """
        thought = thought or (f"I will {action.strip()}." if self.require_think else None)
        tag = tag or self.thoughts[0]
        return (
            f"<{tag}>{thought}</{tag}>" if thought else ""
        ) + f"<action>{action.strip()}</action>"
