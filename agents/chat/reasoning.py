"""Reasoning: the thoughts before an answer, in the tags that reasoning models are trained with.

    >>> split("<think>North is new.</think>go north")
    ('North is new.', 'go north')
    >>> split("North is new.</think>go north")  # the tag was opened in the prompt
    ('North is new.', 'go north')
    >>> split("<think>North is")  # never closed, so nothing was answered
    ('North is', None)

An answer begins after the last closing tag, as in the chat templates that cut reasoning out of
earlier turns. Tags inside the reasoning are words of it. Where something was said before a tag
opens, nothing is split. The channels of gpt-oss are read too.
"""

from __future__ import annotations

import re

PAIRS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
)
"""What opens reasoning and what closes it."""


def _any(tags: list[str]) -> re.Pattern[str]:
    # Letters in any case, except in square brackets: a world may well say [think].
    return re.compile(
        "|".join(re.escape(tag) if tag[0] == "[" else f"(?i:{re.escape(tag)})" for tag in tags)
    )


_OPEN, _CLOSE = _any([opening for opening, _ in PAIRS]), _any([closing for _, closing in PAIRS])
_TAG = re.compile(f"{_OPEN.pattern}|{_CLOSE.pattern}")
_CHANNEL = re.compile(
    r"(?:<\|start\|>assistant)?<\|channel\|>([^<]*)(?:<\|constrain\|>[^<]*)?<\|message\|>"
)
_MESSAGE_END = re.compile(r"<\|(?:end|return|call)\|>\Z")


def split(text: str) -> tuple[str | None, str | None]:
    """Cut a response into thought and answer. Never raises, for any text.

    The thought is None if there is none, the answer if the reasoning never ends.
    """
    if channels := list(_CHANNEL.finditer(text)):
        return _channels(text, channels)
    first = _TAG.search(text)
    if first is None or (_OPEN.fullmatch(first.group()) and text[: first.start()].strip()):
        return None, text
    closed = list(_CLOSE.finditer(text))
    end = closed[-1] if closed else None
    answer = text if end is None else text[end.end() :]
    if _OPEN.search(answer):
        return _words(text), None
    return (None if end is None else _words(text[: end.start()])), answer


def left_open(prompt: str) -> str:
    """Return the end of a prompt from the tag on that opens reasoning; empty if none stays open."""
    opened = [match for match in _OPEN.finditer(prompt) if not _CLOSE.search(prompt, match.end())]
    return prompt[opened[0].start() :] if opened else ""


def continued(opened: str, text: str) -> str:
    """Return what is left to write of a text after a prompt that ends with `opened`.

    That is the text without its own opening tag, or after reasoning that is closed at once.
    """
    if not opened:
        return text
    for opening, closing in PAIRS:
        if opened.lower().startswith(opening.lower()):
            if text.startswith(opening):
                return text.removeprefix(opening)
            return f"\n{closing}\n\n{text}"
    return text


def is_tag(token: str) -> bool:
    """Tell whether a token opens or closes reasoning."""
    return _TAG.fullmatch(token.strip()) is not None


def _words(text: str) -> str | None:
    return "\n".join(part.strip() for part in _TAG.split(text) if part.strip()) or None


def _channels(text: str, found: list[re.Match[str]]) -> tuple[str | None, str | None]:
    """Split the messages of gpt-oss: the last one is the answer, unless it is analysis too."""
    ends = [*(match.start() for match in found[1:]), len(text)]
    said = [
        _MESSAGE_END.sub("", text[m.end() : end].rstrip()).strip()
        for m, end in zip(found, ends, strict=True)
    ]
    thought = [text[: found[0].start()].strip(), *said[:-1]]
    name = found[-1][1].strip()
    if name.startswith("analysis") and " to=" not in name:
        return "\n".join(filter(None, [*thought, said[-1]])) or None, None
    answer = said[-1] if name.startswith("final") else text[found[-1].start() :]
    return "\n".join(filter(None, thought)) or None, answer
