"""A tokenizer's chat template: from messages to runs of text between responses, and to ids.

`agents/chat/chat.py` says why. What a template does is found out by rendering it: whether it knows
a system role, which tokens it spells out, what ends a turn, whether it prints what it is given::

    template = template_of(tokenizer)
    parts = template.parts(messages, responses, tools=None)  # [run, 0, run, 1, run]
    ids = template.encode(parts[0], end=None)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...foundation.errors import UserError
from ..context.base import Message
from .control import Run, TextEncoder, delimiters, special_tokens
from .marks import Marks, Part, folded, merged, owners, same, with_contents
from .reasoning import continued, left_open
from .rendering import Rendering

TODAY = date(2025, 1, 1)
"""The date that templates are told, unless a recipe names another: never the clock's."""
PLAIN_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '> ' + m['content'] + (eos_token or"
    " '') + '\n\n' }}{% else %}{{ m['content'] + '\n\n' }}{% endif %}{% endfor %}{% if"
    " add_generation_prompt %}{{ '> ' }}{% endif %}"
)
"""Used for a tokenizer without a chat template (a base model): observations as paragraphs,
responses after '> '.
"""
_MARK = "\ue000"


class Template:
    """A tokenizer's chat template, which turns messages into parts and runs into ids.

    `template_of` makes one per tokenizer.
    """

    def __init__(self, tokenizer: Any, arguments: Mapping[str, Any], today: date) -> None:
        self.tokenizer = tokenizer
        source = None if tokenizer.chat_template else PLAIN_TEMPLATE
        self._rendering = Rendering(tokenizer, source, arguments, today)
        self._listed = False
        glue = self._probe()
        self._fold = self._must_fold()
        prompt = self._prompt()
        self.opened = left_open(prompt)
        """What the generation prompt ends with, from the tag on that opens reasoning; empty if it
        opens none.
        """
        # Not what precedes the last response: some templates print reasoning tokens there, and only
        # there.
        between = "".join([*glue[:3], *glue[4:]])
        self.stop_token_ids = self._find_stops(glue[-1], glue[2])
        ends = {str(tokenizer.convert_ids_to_tokens(i)) for i in self.stop_token_ids}
        self._encoder = TextEncoder(
            tokenizer, special_tokens(tokenizer) | delimiters(tokenizer, between) | ends
        )
        self._control = self._encoder.control
        self._before = (glue[1], prompt)
        # Some templates print [/INST] to generate, and [/INST] with a space ever after.
        self._tails = _tails(glue[1], prompt)
        added = glue[1].removeprefix(prompt)
        self._header = added if added != glue[1] and self._control.spelled(added) else ""
        """Text that the template puts between generation prompt and response: the model wrote it
        itself.
        """

    # messages to parts

    def parts(
        self, messages: list[Message], responses: Sequence[str], tools: list[dict[str, Any]] | None
    ) -> list[Part]:
        """Render messages with the generation prompt as runs and responses. Raises UserError."""
        if self._fold:
            messages = folded(messages)
        tried: list[list[Message]] = []
        problem: Exception | None = None
        for told in (messages, merged(messages), folded(messages), merged(folded(messages))):
            if told in tried:
                continue
            tried.append(told)
            try:
                return self._parts(told, responses, tools)
            except Exception as error:
                problem = problem or error
        raise UserError(f"the chat template refuses the conversation: {problem}") from None

    def _parts(self, messages: list[Message], responses: Sequence[str], tools: Any) -> list[Part]:
        owned = owners(messages, responses)
        headed = {i for i in owned if self._header and self._header in messages[i]["content"]}
        shown = {i: messages[i]["content"].rpartition(self._header)[2] for i in headed}
        told, unmarked = with_contents(messages, shown), set(headed)
        try:
            plain = self._render(told, tools)
        except Exception:
            plain = None
        for whole, words in self._views(told, owned, plain, tools):
            text, marks = self._marked(told, owned, unmarked, tools, whole, words)
            if plain is None or same(marks.unmarked(text), plain):
                break
        if whole and not marks.complete(text):
            raise ValueError("it does not print all that was said")
        parts = self._split(text, marks, responses)
        if rewritten := {i for i, j in owned.items() if j not in parts} - unmarked:
            # Without the mark at its end, so that white space is trimmed there too.
            text, marks = self._marked(told, owned, unmarked | rewritten, tools, whole, words)
            parts = self._split(text, marks, responses)
        return parts if self._tails is None else [*map(self._as_generated, parts[:-1]), parts[-1]]

    def _views(
        self, told: list[Message], owned: dict[int, int], plain: str | None, tools: Any
    ) -> Iterator[tuple[bool, frozenset[str]]]:
        """Yield what to hide from the template, everything first.

        Each view says whether the world's words are hidden as a whole, and which control tokens of
        responses stay visible. Only a template that reads what was said needs more than the first.
        """
        yield True, frozenset()
        yield False, frozenset()
        said = {word for i in owned for word in self._control.spelled(told[i]["content"])}
        shown = said

        def fits(words: set[str]) -> bool:
            text, marks = self._marked(told, owned, set(), tools, False, frozenset(words))
            return same(marks.unmarked(text), plain or "")

        if said and fits(said):
            for word in sorted(said):
                if fits(shown - {word}):
                    shown = shown - {word}
            yield False, frozenset(shown)
        yield False, frozenset()

    def _marked(
        self,
        told: list[Message],
        owned: dict[int, int],
        unmarked: set[int],
        tools: Any,
        whole: bool,
        words: frozenset[str],
    ) -> tuple[str, Marks]:
        """Render with a mark after each response but the `unmarked`, and for what is hidden."""
        marks = Marks([message["content"] for message in told])
        contents = {}
        for i, message in enumerate(told):
            if i in owned:
                end = "" if i in unmarked else marks.end(owned[i])
                contents[i] = marks.spelled(message["content"], self._control, words) + end
            elif whole:
                contents[i] = marks.whole(message["content"])
            else:
                contents[i] = marks.spelled(message["content"], self._control)
        return self._render(with_contents(told, contents), tools), marks

    def _split(self, text: str, marks: Marks, responses: Sequence[str]) -> list[Part]:
        return marks.parts(text, responses, self._control, whole=self._encoder.normalises)

    def _as_generated(self, part: Part) -> Part:
        """Give a run before a response the white space that the generation prompt had there."""
        assert self._tails is not None
        if (
            isinstance(part, int)
            or not part
            or part[-1][1]
            or not part[-1][0].endswith(self._tails[0])
        ):
            return part
        return (*part[:-1], (part[-1][0].removesuffix(self._tails[0]) + self._tails[1], False))

    def _render(self, messages: Sequence[Message], tools: Any, *, generate: bool = True) -> str:
        if not self._listed:
            return self._rendering(messages, tools, generate=generate)
        parts = [
            {"role": m["role"], "content": [{"type": "text", "text": m["content"]}]}
            for m in messages
        ]
        return self._rendering(parts, tools, generate=generate)

    # runs to ids

    def encode(self, run: Run, end: int | None, inside: bool = False) -> list[int]:
        """Return the ids of a run.

        `end` is the stop token that the response before it ended with: the template's own copy of
        it is left out. `inside`: the run is not the first.
        """
        if end is not None and run and not run[0][1]:
            first = run[0][0].lstrip()
            if first.startswith(str(self.tokenizer.convert_ids_to_tokens(end))):
                # Tokenised with the stop token and cut after it: what follows is then tokenised as
                # it is in context.
                ids = self._encoder.encode(((first, False), *run[1:]), inside)
                if ids[:1] == (end,):
                    return list(ids[1:])
        return list(self._encoder.encode(run, inside))

    def encode_response(self, text: str) -> list[int]:
        """Return a response's ids as they stand after a generation prompt, without a stop token."""
        history, prompt = self._before
        before = self._encoder.encode(((prompt, False),), True)
        header = self._header if self._header and text.startswith(self._header) else ""
        said = ((header, False), (text.removeprefix(header), True))
        # With the white space that the template prints before earlier responses, where it is part
        # of their first token.
        for tail in (history, prompt) if self._tails else (prompt,):
            ids = self._encoder.encode(((tail, False), *said), True, True)
            if ids[: len(before)] == before and self.decode(list(ids[len(before) :])) == text:
                return list(ids[len(before) :])
        return list(self._encoder.encode(said, True, True))

    def continued(self, text: str, opened: str) -> str:
        """Return what is left to write of a response after a prompt that ends with `opened`.

        See `Chat.continued`.
        """
        return self._header + continued(opened, text)

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids, special tokens spelled out."""
        return str(
            self.tokenizer.decode(
                ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    # what kind of template it is

    def _probe(self) -> list[str]:
        """Render a short conversation that ends with a response, cut at its four messages."""
        roles = ["user", "assistant", "user", "assistant"]
        probes: list[Message] = [{"role": role, "content": _MARK} for role in roles]
        problem = "it does not print the messages that it is given"
        for self._listed in (False, True):
            try:
                pieces = self._render(probes, None, generate=False).split(_MARK)
            except Exception as error:
                problem = problem if self._listed else str(error)
                continue
            if len(pieces) == len(roles) + 1:
                return pieces
        raise UserError(f"the tokenizer's chat template cannot be used: {problem}")

    def _must_fold(self) -> bool:
        """Tell whether the template refuses or swallows the system role."""
        messages: list[Message] = [
            {"role": "system", "content": _MARK},
            {"role": "user", "content": "x"},
        ]
        try:
            return _MARK not in self._render(messages, None, generate=False)
        except Exception:
            return True

    def _prompt(self) -> str:
        """Return the text after the only message, with the generation prompt."""
        try:
            return self._render([{"role": "user", "content": _MARK}], None).split(_MARK)[-1]
        except Exception as error:
            raise UserError(f"the tokenizer's chat template cannot be used: {error}") from None

    def _find_stops(self, tail: str, middle: str) -> tuple[int, ...]:
        """List the ids that end a response.

        They are the template's end of a turn, the tokenizer's end of a sequence, and those of a
        generation config.

        Some templates print none after the last response; then what begins the next turn ends a
        response.
        """
        tokenizer, found = self.tokenizer, list[int]()
        added = {str(token.content): int(i) for i, token in tokenizer.added_tokens_decoder.items()}
        for text in (tail, middle):
            spelled = [s for s in added if s.strip() and text.lstrip().startswith(s)]
            if spelled and not found:
                found.append(added[max(spelled, key=len)])
        if tokenizer.eos_token_id is not None:
            found.append(int(tokenizer.eos_token_id))
        if tokenizer.name_or_path:
            found += _ends(Path(str(tokenizer.name_or_path)))
        return tuple(dict.fromkeys(found))

    def unknown_arguments(self, arguments: Mapping[str, Any]) -> list[str]:
        """List the arguments that the template never reads."""
        return sorted(set(arguments) - self._rendering.variables())


def _ends(folder: Path) -> list[int]:
    """List the ids that the configs of a checkpoint end a text with.

    A single id in config.json is often a family's default and no token of this tokenizer; several
    were written on purpose.
    """
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            ids = json.loads((folder / name).read_text("utf-8")).get("eos_token_id")
            if isinstance(ids, list):
                return [int(i) for i in ids]
            if ids is not None and name == "generation_config.json":
                return [int(ids)]
    return []


@lru_cache(maxsize=16)
def _template_of(tokenizer: Any, source: str, arguments: str, today: date) -> Template:
    return Template(tokenizer, json.loads(arguments), today)


def template_of(
    tokenizer: Any, arguments: Mapping[str, Any] | None = None, today: date = TODAY
) -> Template:
    """Return the Template of a tokenizer, kept as long as its ``chat_template`` stays the same.

    Raises UserError.

    Args:
        tokenizer: a Hugging Face tokenizer.
        arguments: variables of the template, such as ``{"enable_thinking": False}``; what JSON can
            say.
        today: the date that the template is told.
    """
    return _template_of(
        tokenizer, str(tokenizer.chat_template), json.dumps(arguments or {}, sort_keys=True), today
    )


def _tails(before: str, prompt: str) -> tuple[str, str] | None:
    """Return the white space that ends the text before a response and the generation prompt.

    None unless only this differs.
    """
    if before == prompt or before.rstrip() != prompt.rstrip():
        return None
    return before[len(before.rstrip()) :], prompt[len(prompt.rstrip()) :]
