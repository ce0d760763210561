"""Transcript: an episode as judges and taggers see it, and the JSON of their answers::

    shown = transcript(episode, clip=2000)  # <episode>...</episode>, all inside escaped
    score = json_value(answer, "score")  # 3 where the answer is 'Well. {"score": 3}'; or None

A text inside of it is shortened, escaped, and never ends its block.
"""

from __future__ import annotations

import html
import json
import re
from typing import Any

from ...envs.sanitise import well_formed
from ..episode import Episode

_DECODER = json.JSONDecoder()


def transcript(
    episode: Episode,
    clip: int,
    *,
    turns: int | None = None,
    tag: str = "episode",
    instructions: str = "",
) -> str:
    """Write the opening and the first `turns` turns as a block that its content cannot end.

    The block stands between <tag> and </tag>.

    Every text is cut after `clip` characters, and escaped. The world's `instructions` come first,
    if they are given.
    """
    lines = [f"<{tag}>", *([_section("instructions", instructions, clip)] if instructions else [])]
    lines.append(_section("opening", episode.opening, clip))
    for number, turn in enumerate(episode.turns[:turns], 1):
        said = ("unreadable_answer", turn.text) if turn.action is None else ("action", turn.action)
        lines += [
            f'<turn number="{number}">',
            _section(*said, clip),
            _section("observation", turn.observation, clip),
        ]
        lines.append("</turn>")
    return "\n".join([*lines, f"</{tag}>"])


def _section(tag: str, text: str, clip: int) -> str:
    # Cut before it is escaped, so that no escape is cut in two.
    more = f" [{len(text) - clip} more characters]" if len(text) > clip else ""
    return f"<{tag}>{html.escape(well_formed(text[:clip]), quote=False)}{more}</{tag}>"


def json_value(answer: str, key: str) -> Any:
    """Find the value of `key` in a JSON object in an answer; None if there is not exactly one.

    A model that quotes what it was shown may quote a verdict. So all objects with that key must
    agree, and the key must not stand outside them, as it does in an object that is broken by a
    quotation. A <think> block is left out.
    """
    text = answer.strip()
    if text.startswith("<think>"):
        text = text.partition("</think>")[2]
    values, outside, end = [], "", 0
    for brace in re.finditer(r'\{(?=\s*")', text):
        if brace.start() < end:
            continue
        try:
            found, after = _DECODER.raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        outside, end = outside + text[end : brace.start()], after
        if key in found:
            values.append(found[key])
    stray = re.search(rf'"{re.escape(key)}"\s*:', outside + text[end:])
    return None if stray or not values or any(value != values[0] for value in values) else values[0]
