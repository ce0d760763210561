"""A tokenizer's chat template: messages to runs of prompt text between responses, and runs to ids.

`agents/chat.py` says why. What a template does is found out by rendering it: whether it knows a system role, which
tokens it spells out, what ends a turn::

    template = template_of(tokenizer)
    parts = template.parts(messages, responses, tools=None)      # [run, 0, run, 1, run]: text around responses 0 and 1
    ids = template.encode(parts[0], end=None)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from ..plugins import UserError
from .context.base import Message

Run: TypeAlias = tuple[tuple[str, bool], ...]
"""Pieces of prompt text: (text, whether it is content, as opposed to template text)."""
Part: TypeAlias = Run | int
"""A run, or the index of a response."""

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""Byte fallback tokens: some tokenizers call them special, yet any text may need them."""

PLAIN_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '> ' + m['content'] + (eos_token or '') + '\n\n' }}"
    "{% else %}{{ m['content'] + '\n\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '> ' }}{% endif %}"
)
"""Used for a tokenizer without a chat template (a base model): observations as paragraphs, responses after '> '."""


class Template:
    """A tokenizer's chat template: messages to parts, runs to ids. Made once per tokenizer by `template_of`."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.source: str | None = None if tokenizer.chat_template else PLAIN_TEMPLATE
        added = {int(i): token for i, token in tokenizer.added_tokens_decoder.items()}
        self._added = {str(token.content): i for i, token in added.items()}
        special = {str(t.content) for t in added.values() if t.special} | set(map(str, tokenizer.all_special_tokens))
        special -= {s for s in special if _BYTE.fullmatch(s)}
        self._hidden: re.Pattern[str] | None = None
        self.fold = self._must_fold()
        glue = self._probe()
        # Not what precedes the last response: some templates print reasoning tokens there, and only there.
        between = "".join([*glue[:3], *glue[4:]])
        self._tails = self._find_tails(glue[1])
        spelled = {s for s in self._added if s and s in between}
        self.stop_token_ids = self._find_stops(glue[-1])
        ends = {str(tokenizer.convert_ids_to_tokens(i)) for i in self.stop_token_ids}
        self._hidden = _any_of(spelled | ends)
        self._control = _any_of(special | spelled | ends)
        ids = tokenizer.convert_tokens_to_ids(sorted(special | spelled | ends))
        self._control_ids = frozenset(i for i in ids if i is not None and i != tokenizer.unk_token_id)
        self._encode = lru_cache(maxsize=4096)(self._encode_run)

    # messages to parts

    def parts(
        self, messages: list[Message], responses: Sequence[str], tools: list[dict[str, Any]] | None
    ) -> list[Part]:
        """The rendered messages with the generation prompt, as runs and responses. Raises UserError."""
        if self.fold:
            messages = _folded(messages)
        try:
            return self._parts(messages, responses, tools)
        except Exception as error:
            merged = _merged(messages)
            if len(merged) == len(messages):
                raise UserError(f"the chat template refuses the conversation: {error}") from None
        try:
            return self._parts(merged, responses, tools)
        except Exception as error:
            raise UserError(f"the chat template refuses the conversation: {error}") from None

    def _parts(self, messages: list[Message], responses: Sequence[str], tools: Any) -> list[Part]:
        owners = _owners(messages, responses)
        mark = "\ue000"
        while any(mark in m["content"] for m in messages):
            mark += "\ue001"
        shown: list[Message] = []
        contents: list[str] = []
        for i, message in enumerate(messages):
            content = message["content"]
            if i in owners:
                content = self._hide(content, mark, contents)
                content = f"{mark}a{i}{mark}{content}{mark}z{i}{mark}"
            elif core := content.strip():
                content = content.replace(core, f"{mark}c{len(contents)}{mark}", 1)
                contents.append(core)
            shown.append({"role": message["role"], "content": content})
        text = self._render(shown, tools, generate=True)
        parts = _split(text, re.compile(f"{mark}([acz])(\\d+){mark}"), messages, contents, owners)
        return parts if self._tails is None else [*map(self._as_generated, parts[:-1]), parts[-1]]

    def _as_generated(self, part: Part) -> Part:
        """A run before a response, with the white space that the generation prompt had there."""
        assert self._tails is not None
        if isinstance(part, int) or not part or part[-1][1] or not part[-1][0].endswith(self._tails[0]):
            return part
        return (*part[:-1], (part[-1][0].removesuffix(self._tails[0]) + self._tails[1], False))

    def _hide(self, content: str, mark: str, contents: list[str]) -> str:
        """`content` with marks in place of what spells a token of the template."""
        if self._hidden is None or not self._hidden.search(content):
            return content

        def replace(match: re.Match[str]) -> str:
            contents.append(match.group())
            return f"{mark}c{len(contents) - 1}{mark}"

        return self._hidden.sub(replace, content)

    def _render(self, messages: list[Message], tools: Any, *, generate: bool) -> str:
        text = self.tokenizer.apply_chat_template(
            messages, tools=tools, chat_template=self.source, tokenize=False, add_generation_prompt=generate
        )
        return str(text)

    # runs to ids

    def encode(self, run: Run, end: int | None) -> list[int]:
        """Ids of a run. `end` is the stop token that the response before it ended with: the template's own copy of it
        is left out."""
        if end is not None and run and not run[0][1]:
            first = run[0][0].lstrip()
            if first.startswith(str(self.tokenizer.convert_ids_to_tokens(end))):
                # Tokenised with the stop token and cut after it: what follows is then tokenised as it is in context.
                ids = self._encode(((first, False), *run[1:]))
                return list(ids[1:] if ids[:1] == (end,) else self._encode(run))
        return list(self._encode(run))

    def decode(self, ids: list[int]) -> str:
        """Text of ids, special tokens spelled out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _encode_run(self, run: Run) -> tuple[int, ...]:
        pieces = [""]
        expected = 0
        for text, content in run:
            if content:
                head, *rest = self._cut(text)
                pieces[-1] += head
                pieces += rest
            else:
                pieces[-1] += text
                expected += len(self._control.findall(text)) if self._control else 0
        ids = [i for piece in pieces for i in self._ids(piece)]
        if len([i for i in ids if i in self._control_ids]) != expected:
            return self._encode_apart(run)
        return tuple(ids)

    def _encode_apart(self, run: Run) -> tuple[int, ...]:
        """For tokenizers that find special tokens in unexpected places (by normalising): content alone, in the worst
        case by characters."""
        ids: list[int] = []
        for text, content in run:
            if not content:
                ids += self._ids(text)
                continue
            own = [i for piece in self._cut(text) for i in self._ids(piece)]
            if not self._control_ids.isdisjoint(own):
                own = [i for character in text for i in self._ids(character) if i not in self._control_ids]
            ids += own
        return tuple(ids)

    def _cut(self, text: str) -> list[str]:
        """Content, cut after the first character of everything that spells a special token."""
        cuts = [match.start() + 1 for match in self._control.finditer(text)] if self._control else []
        return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    def _ids(self, text: str) -> list[int]:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None and not (backend.truncation or backend.padding or backend.encode_special_tokens):
            return list(backend.encode(text, add_special_tokens=False).ids)
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    # what kind of template it is

    def _must_fold(self) -> bool:
        """The template refuses or swallows the system role."""
        messages: list[Message] = [{"role": "system", "content": "\ue000"}, {"role": "user", "content": "x"}]
        try:
            return "\ue000" not in self._render(messages, None, generate=False)
        except Exception:
            return True

    def _probe(self) -> list[str]:
        """Template text of a short conversation that ends with a response: what is around its four messages."""
        roles = ["user", "assistant", "user", "assistant"]
        try:
            text = self._render([{"role": r, "content": "\ue000"} for r in roles], None, generate=False)
        except Exception as error:
            raise UserError(f"the tokenizer's chat template cannot be used: {error}") from None
        *before, after = text.split("\ue000")
        return [*before, *[""] * (4 - len(before)), after]

    def _find_tails(self, before: str) -> tuple[str, str] | None:
        """White space at the end of the text before a response and of the generation prompt, if only that differs: some
        templates print ``[/INST]`` to generate and ``[/INST] `` ever after."""
        prompt = self._render([{"role": "user", "content": "\ue000"}], None, generate=True).split("\ue000")[-1]
        if before == prompt or before.rstrip() != prompt.rstrip():
            return None
        return before[len(before.rstrip()) :], prompt[len(prompt.rstrip()) :]

    def _find_stops(self, tail: str) -> tuple[int, ...]:
        """The template's end-of-turn token, the tokenizer's end-of-sequence token and those of a generation config."""
        tokenizer, found = self.tokenizer, []
        spelled = [s for s in self._added if s and tail.lstrip().startswith(s)]
        if spelled:
            found.append(self._added[max(spelled, key=len)])
        if tokenizer.eos_token_id is not None:
            found.append(int(tokenizer.eos_token_id))
        config = Path(str(tokenizer.name_or_path)) / "generation_config.json"
        if tokenizer.name_or_path and config.is_file():
            ids = json.loads(config.read_text("utf-8")).get("eos_token_id")
            found += [int(i) for i in (ids if isinstance(ids, list) else [ids]) if i is not None]
        return tuple(dict.fromkeys(found))


@lru_cache(maxsize=16)
def _template_of(tokenizer: Any, source: str) -> Template:
    return Template(tokenizer)


def template_of(tokenizer: Any) -> Template:
    """The Template of a tokenizer, kept as long as its ``chat_template`` stays the same. Raises UserError."""
    return _template_of(tokenizer, str(tokenizer.chat_template))


def _any_of(strings: Iterable[str]) -> re.Pattern[str] | None:
    known = sorted((s for s in strings if s), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, known))) if known else None


def _owners(messages: list[Message], responses: Sequence[str]) -> dict[int, int]:
    """Which message is which response: the same string object, else the latest equal one; order is kept."""
    owners: dict[int, int] = {}
    last = len(responses)
    for i in range(len(messages) - 1, -1, -1):
        if messages[i]["role"] != "assistant":
            continue
        content = messages[i]["content"]
        found = next((j for j in range(last - 1, -1, -1) if responses[j] is content), None)
        if found is None:
            found = next((j for j in range(last - 1, -1, -1) if responses[j] == content), None)
        if found is not None:
            owners[i] = last = found
    return owners


def _split(
    text: str, marks: re.Pattern[str], messages: list[Message], contents: list[str], owners: dict[int, int]
) -> list[Part]:
    """A rendering with marks as parts. A response counts as such only if it stands between its marks unchanged."""
    parts: list[Part] = []
    run: list[tuple[str, bool]] = []
    opened, size, position = -1, 0, 0
    for match in marks.finditer(text):
        if match.start() > position:
            run.append((text[position : match.start()], False))
        position = match.end()
        kind, i = match.group(1), int(match.group(2))
        if kind == "c":
            run.append((contents[i], True))
        elif kind == "a":
            opened, size = i, len(run)
        elif opened == i and "".join(piece for piece, _ in run[size:]) == messages[i]["content"]:
            parts += [tuple(run[:size]), owners[i]]
            run, opened = [], -1
    if position < len(text):
        run.append((text[position:], False))
    return [*parts, tuple(run)]


def _folded(messages: list[Message]) -> list[Message]:
    """System messages moved into the first user message."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    rest = [m for m in messages if m["role"] != "system"]
    if not system:
        return rest
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": system}, *rest]
    return [{"role": "user", "content": f"{system}\n\n{rest[0]['content']}"}, *rest[1:]]


def _merged(messages: list[Message]) -> list[Message]:
    """Neighbours of the same role joined, for templates that insist on alternation."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1] = {"role": message["role"], "content": f"{merged[-1]['content']}\n\n{message['content']}"}
        else:
            merged.append(message)
    return merged
