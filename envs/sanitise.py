r"""Decide whether a string may reach a world at all: a model's words are hostile input.

Each rule answers something seen in practice: TextWorld runs ``a. b. c`` as a whole quest in one
step, ``quit`` opens a prompt that swallows every later command, ``save`` writes a file that
``restore`` reads back in another episode, a backslash makes the z-machine print an error into the
observation, and whatever follows a newline is dropped in silence. A world states its rules as a
`Grammar`.

    >>> grammar = Grammar(chaining=False, deny=frozenset({"quit", "save"}))
    >>> clean("go east. take coin", grammar)
    (None, 'chained')
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

META_VERBS = frozenset(
    "quit q restart restore save script unscript transcript verbose brief superbrief undo oops"
    " notify version verify score pronouns nouns again g full fullscore".split()
)

_WORD = re.compile(r"[\w-]+")
_Z_WORD = 9
"""Z-machine games compare only so many characters of a word: 'transcripted' is 'transcript' to
them.
"""
_CHAIN = re.compile(r"[.;]|\bthen\b", re.IGNORECASE)


# Half a surrogate pair is no text: it cannot be written to a game, a file or a tokenizer.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Grammar:
    """The actions that a world accepts. The defaults are those of a parser-based text game."""

    chaining: bool = False
    """True lets '.', ';' and 'then' through (worlds where text may contain them)."""
    deny: frozenset[str] = META_VERBS
    """First words that are refused, in lower case; longer words count by their first nine letters.
    """
    max_chars: int = 256
    """Longer actions are refused."""
    multi_line: bool = False
    """True for worlds whose actions may span lines (code, web forms)."""


REASONS = {
    "empty": "write an action",
    "too_long": "the action is too long",
    "multi_line": "write one line only",
    "control": "the action has control characters",
    "chained": "write one command at a time",
    "meta_verb": "this command is not allowed",
    "not_admissible": "this command is not possible here",
}
"""Why an action was refused, in words for the player."""


def clean(text: str, grammar: Grammar) -> tuple[str | None, str | None]:
    """Decide whether an action may reach the world: (it, None), or (None, a key of `REASONS`).

    Never raises, for any string.
    """
    # Length is looked at first so that a megabyte costs nothing.
    if len(text) > 4 * grammar.max_chars + 1024:
        return None, "too_long"
    action = text.replace("\\", "").strip()
    if not action:
        return None, "empty"
    if len(action) > grammar.max_chars:
        return None, "too_long"
    if not grammar.multi_line and len(action.splitlines()) > 1:
        return None, "multi_line"
    if _CONTROL.search(action):
        return None, "control"
    if not grammar.chaining and _CHAIN.search(action):
        return None, "chained"
    word = _WORD.search(action)
    if word is not None and _denied(word.group().lower(), grammar.deny):
        return None, "meta_verb"
    return action, None


def composed(text: str) -> str:
    """Return a text in Unicode's composed form (NFC), in which texts are compared.

    Files made on some systems spell an accented letter as two characters; most tokenizers write it
    as one.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _denied(word: str, deny: frozenset[str]) -> bool:
    return word in deny or (
        len(word) >= _Z_WORD and any(verb[:_Z_WORD] == word[:_Z_WORD] for verb in deny)
    )


def well_formed(text: str) -> str:
    """Return a text without lone surrogates, which neither a file nor a request can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
