"""Workspace: the task, the player's own report and the last exchange.

The prompt stays as short as these are, however long the episode; every turn is a training sequence
of its own.

Layout, for the parser ``report`` (o0 is the opening; before the first response the last two blocks
are not there)::

    system | user: o0 <current_report>M</current_report> <last_action>a</last_action>
    <last_observation>o</...>

It is one user message, so no prompt ever extends the one before. System and opening come first and
are a common prefix of all prompts. Where the world or the player spells a tag of the layout, its
``<`` is shown as ``&lt;``: each block has one beginning and one end. The tags are not those that
the player writes, which therefore stay readable: the answer to an unparsable response spells them.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from ..parsers.report import read
from .base import Context, History, Message, user

_TAG = re.compile(
    r"<(?=\s*(?:/\s*)?(?:current_report|last_action|last_observation)\s*>)", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?\u2026][\"'\u2019\u201d)\]]*(?=\s)|[\u3002\uff01\uff1f]|\n")


class Workspace(Context):
    """The state ``s_t = (question, M_t, (a_{t-1}, o_t))``: opening, report, last action and answer.

    The response to s_t holds a thought, the report M_{t+1} and an action (parser ``report``);
    everything but the report and the last exchange is dropped. M is empty at first. What an old
    turn found out reaches the player only through the report, whose tokens have the advantage of
    their turn like its action.

    Edge cases: a response without a report keeps M, and the prompt says so; the observation that it
    answered is lost to the player, even if the world stood still. A report that is too long is cut
    at the end of a sentence (without one at a space, without that anywhere), and the prompt says
    so. The action of a response out of shape is shown as empty.

    Paper: IterResearch (arXiv 2511.07327). Source: a description of the paper; the limit, its notes
    and the escaping are ours.
    """

    name: Literal["workspace"] = "workspace"
    report_characters: int = Field(
        8000,
        ge=1,
        description=(
            "longest report shown, in characters because a context has no tokenizer (2000 tokens of"
            " English are about 8000); a longer one is cut at the end of a sentence, and the prompt"
            " says so"
        ),
    )

    def messages(self, history: History) -> list[Message]:
        """Write one user message after the system prompt."""
        reports = (read(response).report for response in reversed(history.responses))
        report = _escaped(next((found for found in reports if found is not None), ""))
        shown = _cut(report, self.report_characters)
        parts = [_escaped(history.observations[0]), _block("current_report", shown)]
        if shown != report:
            parts.append(
                f"(The report was cut after {len(shown)} of {len(report)} characters; "
                f"write at most {self.report_characters}.)"
            )
        if history.responses:
            last = read(history.responses[-1])
            if last.report is None:
                parts.append("(The last response held no report: this is the one before.)")
            parts.append(_block("last_action", _escaped(last.action or "")))
            parts.append(_block("last_observation", _escaped(history.observations[-1])))
        return [*history.system_message(), user("\n\n".join(parts))]


def _block(tag: str, text: str) -> str:
    return f"<{tag}>{text}</{tag}>"


def _escaped(text: str) -> str:
    return _TAG.sub("&lt;", text)


def _cut(text: str, limit: int) -> str:
    """Return `text`, or as many of its sentences as fit."""
    if len(text) <= limit:
        return text
    ends = [
        match.end() for match in _SENTENCE_END.finditer(text, 0, limit + 1) if match.end() <= limit
    ]
    if not ends:
        ends = [match.start() for match in re.finditer(r"\s", text[: limit + 1])]
    return text[: ends[-1] if ends else limit].rstrip()
