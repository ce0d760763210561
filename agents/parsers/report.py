"""Report: ``<think>reasoning</think><report>what to remember</report><action>command</action>``.

The format of the context ``workspace``, which carries the report to the next turn. What is a report
is decided here alone, by `read`, for the parser and for the context.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from ..chat.reasoning import split
from .base import Parsed, Parser

_INSIDE = r"(?:(?!</?(?:think|report|action)>).)*"
_SHAPE = re.compile(rf"\s*(?:<report>(?P<report>{_INSIDE})</report>\s*)?(?P<rest>.*)", re.DOTALL)
_ACTION = re.compile(rf"<action>({_INSIDE})</action>\s*", re.DOTALL)
_REPORT_TAG = re.compile(r"</?report>")


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of a response, stripped; None for one that is missing, blank or ambiguous."""

    thought: str | None
    report: str | None
    action: str | None


def read(text: str) -> Blocks:
    """Find the blocks in their order, each at most once, without tags inside.

    Reasoning is read as `reasoning.split` reads it.

    A report is read whatever follows it, unless that spells a tag of a report too: then nobody can
    say which text is the report. An action needs all of the response in shape.
    """
    thought, answer = split(text)
    shape = _SHAPE.fullmatch(answer or "")
    assert shape is not None  # every part of the shape may be empty
    action = _ACTION.fullmatch(shape["rest"])
    report = None if _REPORT_TAG.search(shape["rest"]) else shape["report"]
    return Blocks(thought, _filled(report), _filled(action[1] if action else None))


def _filled(block: str | None) -> str | None:
    return (block or "").strip() or None


class Report(Parser):
    """``<think>reasoning</think><report>what to remember</report><action>command</action>``.

    Strict: nothing but white space outside the blocks, in this order, no tags inside report and
    action; the thought is optional, and is read as reasoning models write it.

    Edge cases: without a report that says something the response is unparsable, so that the world
    stands still, the player is told the format and the reward ``format`` charges the turn; with
    ``require_report: false`` its action is executed and nothing is charged. Either way the context
    goes on with the last report.

    Paper: IterResearch (arXiv 2511.07327). Source: a description of the paper; the strictness is
    ours.
    """

    name: Literal["report"] = "report"
    require_report: bool = Field(True, description="take a response without a report as unparsable")

    @property
    def expects(self) -> str:
        """Say which blocks a response has."""
        report = "<report>all you must remember</report>" + (
            "" if self.require_report else " if it changed"
        )
        return (
            f"Answer with <think>reasoning</think> if you need it, {report}, then <action>one"
            " command</action>."
        )

    @property
    def stop(self) -> tuple[str, ...]:
        """List the end of the action block, which ends the response."""
        return ("</action>",)

    def parse(self, text: str) -> Parsed:
        """Read action and thought, stripped; an empty command is none."""
        blocks = read(text)
        return Parsed(
            None if self.require_report and blocks.report is None else blocks.action, blocks.thought
        )

    def render(
        self,
        action: str,
        thought: str | None = None,
        tag: str | None = None,
        report: str | None = None,
    ) -> str:
        """Write all blocks.

        A required report that is not given says nothing about the command: who scores the command's
        tokens must not find it spelled out before them.
        """
        report = report or ("Nothing new." if self.require_report else None)
        blocks = (("think", thought), ("report", report), ("action", action.strip()))
        return "".join(f"<{name}>{text}</{name}>" for name, text in blocks if text is not None)
