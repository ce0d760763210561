"""Control tokens: they structure a conversation, and no text may spell one by chance.

A control token is a special token of the tokenizer, or an ordinary one in the form ``<|...|>`` that
the chat template prints between messages. White space never is one, and neither are the bytes of a
byte fallback. Ids of a run::

    encoder = Encoder(tokenizer, ["<|im_start|>", "<|im_end|>"])
    run = (("<|im_start|>user\\nWhat is ", False), ("<|im_end|>", True), ("?", False))
    ids = encoder.encode(run)

What is flagged there as content is cut inside everything that spells a control token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TypeAlias

from .reasoning import is_tag

Run: TypeAlias = tuple[tuple[str, bool], ...]
"""Pieces of prompt text: (text, whether it must not become control tokens)."""

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""Byte fallback tokens: some tokenizers call them special, yet any text may need them."""
_DELIMITER = re.compile(r"<[|\uff5c].*[|\uff5c]>", re.DOTALL)


def special_tokens(tokenizer: Any) -> set[str]:
    """List the tokens that the tokenizer calls special, without white space and bytes."""
    added = tokenizer.added_tokens_decoder.values()
    special = {str(t.content) for t in added if t.special} | set(
        map(str, tokenizer.all_special_tokens)
    )
    return {s for s in special if s.strip() and not _BYTE.fullmatch(s)}


def delimiters(tokenizer: Any, text: str) -> set[str]:
    """List ordinary added tokens that `text` spells in the form of control tokens."""
    added = {str(t.content) for t in tokenizer.added_tokens_decoder.values()}
    return {s for s in added if s in text and _DELIMITER.fullmatch(s.strip())}


class Control:
    """A set of control tokens: their spelling and their ids."""

    def __init__(self, tokenizer: Any, words: Iterable[str]) -> None:
        self.words = frozenset(word for word in words if word)
        known = sorted(self.words, key=lambda word: (-len(word), word))
        self._spelling = (
            re.compile("|".join(map(re.escape, known))) if known else re.compile("(?!)")
        )
        ids = tokenizer.convert_tokens_to_ids(known)
        self.ids = frozenset(i for i in ids if i is not None and i != tokenizer.unk_token_id)

    def spelled(self, text: str) -> list[str]:
        """List the control tokens that `text` spells, in order."""
        return self._spelling.findall(text)

    def flagged(self, text: str) -> list[tuple[str, bool]]:
        """Cut `text` into pieces, and flag those that spell a control token."""
        pieces, position = [], 0
        for match in self._spelling.finditer(text):
            pieces += [(text[position : match.start()], False), (match.group(), True)]
            position = match.end()
        return [piece for piece in (*pieces, (text[position:], False)) if piece[0]]

    def cut(self, text: str) -> list[str]:
        """Cut `text` after the first character of everything that spells a control token."""
        cuts = [match.start() + 1 for match in self._spelling.finditer(text)]
        return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


class TextEncoder:
    """A text encoder for one tokenizer and its control tokens.

    In what a player says, the tags of reasoning are its own words even where a tokenizer calls them
    special: `spoken`.
    """

    def __init__(self, tokenizer: Any, words: Iterable[str]) -> None:
        self.tokenizer = tokenizer
        self.control = Control(tokenizer, words)
        self.spoken = Control(tokenizer, (word for word in self.control.words if not is_tag(word)))
        added = {str(t.content): t for t in tokenizer.added_tokens_decoder.values()}
        # A normaliser may turn other text into these: then only whole contents can be guarded.
        self.normalises = any(
            word in added and added[word].normalized for word in self.control.words
        )
        # Most sentencepiece tokenizers put a space before a text, which what stands inside one does
        # not have.
        self._anchored = self._ids("\na")[len(self._ids("\n")) :] != self._ids("a")
        self.encode = lru_cache(maxsize=4096)(self._encode)
        """Ids of a run: ``encode(run, inside=False, spoken=False)``. `inside`: something stands
        before it. Cached.
        """

    def _encode(self, run: Run, inside: bool = False, spoken: bool = False) -> tuple[int, ...]:
        control = self.spoken if spoken else self.control
        pieces = [""]
        expected = 0
        for text, content in run:
            if content:
                head, *rest = control.cut(text)
                pieces[-1] += head
                pieces += rest
            else:
                pieces[-1] += text
                expected += len(control.spelled(text))
        ids = [i for n, piece in enumerate(pieces) for i in self._piece(piece, inside or n > 0)]
        if len([i for i in ids if i in control.ids]) != expected:
            return self._encode_apart(run, control, inside)
        return tuple(ids)

    def _encode_apart(self, run: Run, control: Control, inside: bool) -> tuple[int, ...]:
        """Encode content alone, in the worst case by characters.

        For tokenizers that find control tokens in unexpected places, by normalising.
        """
        ids: list[int] = []
        for text, content in run:
            if not content:
                ids += self._piece(text, inside or bool(ids))
                continue
            own = [
                i for piece in control.cut(text) for i in self._piece(piece, inside or bool(ids))
            ]
            if not control.ids.isdisjoint(own):
                own = [
                    i
                    for character in text
                    for i in self._piece(character, True)
                    if i not in control.ids
                ]
            ids += own
        return tuple(ids)

    def _piece(self, text: str, inside: bool) -> list[int]:
        """Encode a text; behind something else it is no beginning."""
        if not (inside and self._anchored and text):
            return self._ids(text)
        before, both = self._ids("\n"), self._ids("\n" + text)
        return both[len(before) :] if both[: len(before)] == before else self._ids(text)

    def _ids(self, text: str) -> list[int]:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None and not (
            backend.truncation or backend.padding or backend.encode_special_tokens
        ):
            return list(backend.encode(text, add_special_tokens=False).ids)
        return list(self.tokenizer.encode(text, add_special_tokens=False))
