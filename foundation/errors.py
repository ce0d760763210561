"""Errors: the three kinds that a user is told in one sentence, and how any other is told as one."""

from __future__ import annotations

import difflib
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from pydantic import ValidationError


class UserError(Exception):
    """A mistake of the user's, told in one sentence; the command line prints it without a
    traceback, exit code 2.
    """


class PluginError(UserError):
    """A plug-in raised, or answered what its slot cannot take; it names what would be right."""


class RunFailed(Exception):
    """A right request that could not be met, told in one sentence, with exit code 1."""


def told(error: BaseException) -> str:
    """Tell an exception in one line: type, message and place.

    The place is in the code of whoever wrote what raised it.
    """
    try:
        message = " ".join(str(error).split())
    except Exception:  # a message that cannot be made must not hide what happened
        message = "(its message cannot be read)"
    if len(message) > 300:
        message = f"{message[:300]} ..."
    place = _place(error)
    return (
        f"{type(error).__name__}{': ' if message else ''}{message}{f' ({place})' if place else ''}"
    )


def kind_of(error: BaseException) -> str:
    """Return what equal failures have in common: type and place, without the message."""
    return f"{type(error).__name__} ({_place(error)})"


def _place(error: BaseException) -> str:
    """Find the innermost frame outside of libraries and of this package.

    Inside of them if there is no other.
    """
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    theirs = [place for place in frames if not _is_library(place[0].f_code.co_filename)]
    others = [
        place
        for place in theirs
        if not str(place[0].f_globals.get("__name__")).startswith("turnrl.")
    ]
    if not frames:
        return ""
    frame, line = (others or theirs or frames)[-1]
    return f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"


@cache
def _is_library(file: str) -> bool:
    roots = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return file.startswith(("<", *roots))


@contextmanager
def boundary(what: str) -> Iterator[None]:
    """Turn what a plug-in raises into a PluginError that names it; a UserError passes as it is.

    Args:
        what: slot and name, such as "credit 'grpo'".
    """
    try:
        yield
    except (UserError, RunFailed, ValidationError):
        raise
    except Exception as error:
        raise PluginError(f"{what} raised {told(error)}") from error


def nearest(word: str, known: list[str]) -> str:
    """Return a hint for an unknown word: "did you mean 'x'?", or the list of what is known."""
    match = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{match[0]}'?" if match else f"known: {', '.join(sorted(known))}"
