r"""Make what a world, a model or a file says fit to be printed.

    >>> visible("\x1b]0;a title\x07You are \x1b[31mhere\u202e.")
    'You are here.'

A terminal obeys control characters, whoever wrote them: a text may set the title, write over what
was printed, fill the clipboard or turn letters around.
`visible` leaves the text and takes the commands; `turnrl.foundation.terminal` has a console that
prints everything through it.
"""

from __future__ import annotations

import re

_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, movements, screens
    # titles, the clipboard, links
    r"|(?:\x1b[P\]X^_]|[\x90\x98\x9d-\x9f])[^\x00-\x1f\x7f-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]"
)
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and line feed, delete, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that turn the direction of what follows
    "\ufff9-\ufffb\U000e0000-\U000e007f]"  # annotations and tags, which show nothing
)
_LINES = re.compile("\r\n|[\u2028\u2029]")
_HALVES = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    """Return what a terminal shows of a text, without anything that it would obey.

    Line feeds and tabs stay.

    Half a surrogate pair, which cannot be printed, becomes U+FFFD.
    """
    if text.isascii() and text.isprintable():
        return text
    # Sequences within sequences leave letters behind, which no terminal obeys: not one control
    # character is left.
    plain = _HIDDEN.sub("", _SEQUENCE.sub("", _LINES.sub("\n", text)))
    return _HALVES.sub("\ufffd", plain)


def one_line(text: str) -> str:
    """Return a text as one line that commands no terminal; any white space becomes one space."""
    return " ".join(visible(text).split())


def escaped(json_text: str) -> str:
    r"""Write JSON in which what `visible` leaves out is escaped, as in ``\u009b``.

    To a reader of JSON it is the same.
    """

    def escape(found: re.Match[str]) -> str:
        units = found.group().encode("utf-16-be", "surrogatepass")
        return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))

    kept = json_text.split("\n")
    return "\n".join(
        _HALVES.sub(escape, _LINES.sub(escape, _HIDDEN.sub(escape, line))) for line in kept
    )
