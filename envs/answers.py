"""The answers of a world, checked to be what everything above relies on: text, numbers, flags.

Worlds are written by many hands: numbers of numpy are numbers, half a surrogate pair in a text is
replaced, and what is of another type is refused with a TypeError that says which answer it was::

    text(b"You see a door.", "the observation")  # TypeError: the observation is bytes, not str
    number(np.float32(0.5), "the reward")  # 0.5

The pool plays behind these checks, so that a wrong answer ends its own episode and nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .artifacts import LARGEST, MOST, Artifact
from .sanitise import well_formed

if TYPE_CHECKING:
    from .core import TurnInfo

T = TypeVar("T")


_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MEDIA = re.compile(r"[a-z]{1,20}/[a-z0-9][a-z0-9.+-]{0,79}")
LONGEST = 1_000_000
"""Characters of a text; what is longer could be read by no model, and a tokenizer would be busy
with it for minutes.
"""


def text(value: Any, what: str) -> str:
    """Check that an answer is text, and return it without lone surrogates.

    Raises TypeError for what is no string, ValueError for one that is too long.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what} is {_named(value)}, not str")
    if len(value) > LONGEST:
        raise ValueError(f"{what} has {len(value):,} characters, more than {LONGEST:,}")
    return value if type(value) is str and value.isascii() else well_formed(str(value))


def number(value: Any, what: str) -> float:
    """Check that an answer is a finite number, and return it as a float.

    Raises TypeError for what is no single number, ValueError for NaN and infinity.
    """
    found = value if type(value) is float else real(value, what)
    if not math.isfinite(found):
        raise ValueError(f"{what} is {found}, not a finite number")
    return found


def real(value: Any, what: str) -> float:
    """Check that an answer is a number, and return it as a float, NaN and infinity included.

    Raises TypeError for what is no single number.
    """
    plain = _plain(value)
    if not isinstance(plain, int | float):
        raise TypeError(f"{what} is {_named(plain)}, not a number")
    return float(plain)


def flag(value: Any, what: str) -> bool:
    """Check that an answer is true or false, and return it as a bool.

    Raises TypeError for anything but True, False, 0 and 1.
    """
    if type(value) is bool:
        return value
    plain = _plain(value)
    if not isinstance(plain, int) or plain not in (0, 1):
        raise TypeError(f"{what} is {_named(value)}, not True or False")
    return bool(plain)


def names(value: Any, what: str) -> list[str]:
    """Check that an answer is a list of texts, and return them as a fresh list.

    Raises TypeError for a single string, or for an entry that is no string.
    """
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        raise TypeError(f"{what} is {_named(value)}, not a list of str")
    return [
        entry if type(entry) is str and entry.isascii() else text(entry, f"an entry of {what}")
        for entry in value
    ]


def maybe(check: Callable[[Any, str], T], value: Any, what: str) -> T | None:
    """Check an answer that may also be None by `check`, and return what that makes of it."""
    return None if value is None else check(value, what)


def artifacts(value: Any, what: str) -> dict[str, Artifact]:
    """Check that an answer is artifacts by name, and return them as a fresh dict.

    Raises TypeError for what is none, ValueError for a name or a media type that cannot be one, and
    for more than a turn may carry.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} is {_named(value)}, not a dict of Artifact")
    for name, artifact in value.items():
        if not isinstance(artifact, Artifact) or type(artifact.data) is not bytes:
            raise TypeError(f"an entry of {what} is no Artifact of bytes")
        if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
            raise ValueError(
                f"{what} has the name {name!r:.80}: use letters, digits, '.', '_', '-'"
            )
        if not isinstance(artifact.media_type, str) or not _MEDIA.fullmatch(artifact.media_type):
            raise ValueError(f"{what} has the media type {artifact.media_type!r:.80}")
    size = sum(len(artifact.data) for artifact in value.values())
    if len(value) > MOST or size > LARGEST:
        raise ValueError(
            f"{what}: {len(value)} of {size:,} bytes, more than {MOST} of {LARGEST:,} together"
        )
    return dict(value)


def tools(value: Any) -> list[dict[str, Any]] | None:
    """Check that an answer is JSON schemas of actions or None, and return it as plain data.

    Texts lose their lone surrogates. Raises TypeError for what is no list.
    """
    if value is None:
        return None
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise TypeError(f"tools is {_named(value)}, not a list of JSON schemas")
    return cast("list[dict[str, Any]]", _well_formed(list(value)))


def started(value: Any) -> tuple[str, TurnInfo]:
    """Check what `reset` of a world returned, and return its observation and info.

    Raises TypeError if that is not (observation, info) as `TextEnv` has them.
    """
    observation, info = _tuple(value, 2, "reset")
    return text(observation, "the observation"), _info(info)


def stepped(value: Any) -> tuple[str, float, bool, bool, TurnInfo]:
    """Check what `step` of a world returned, and return its five parts.

    Raises TypeError if those are not the five that `TextEnv` has.
    """
    observation, reward, terminated, truncated, info = _tuple(value, 5, "step")
    return (
        text(observation, "the observation"),
        number(reward, "the reward"),
        flag(terminated, "terminated"),
        flag(truncated, "truncated"),
        _info(info),
    )


def _tuple(value: Any, size: int, method: str) -> tuple[Any, ...]:
    if not isinstance(value, tuple) or len(value) != size:
        raise TypeError(f"{method} returned {_named(value)}, not a tuple of {size}")
    return value


def _info(value: Any) -> TurnInfo:
    if not isinstance(value, Mapping):
        raise TypeError(f"the info is {_named(value)}, not a dict")
    missing = {
        "success",
        "valid_action",
        "invalid_reason",
        "milestones",
        *_NUMBERS,
        *_LISTS,
    } - value.keys()
    if missing:
        raise TypeError(f"the info lacks the key '{min(missing)}'")
    checked: dict[str, Any] = {
        key: flag(value[key], f"info['{key}']") for key in ("success", "valid_action")
    }
    checked["milestones"] = names(value["milestones"], "info['milestones']")
    for key in _NUMBERS:
        checked[key] = maybe(number, value[key], f"info['{key}']")
    for key in _LISTS:
        checked[key] = maybe(names, value[key], f"info['{key}']")
    checked["artifacts"] = artifacts(value.get("artifacts", {}), "info['artifacts']")
    checked["invalid_reason"] = maybe(text, value["invalid_reason"], "info['invalid_reason']")
    return cast("TurnInfo", checked)


_NUMBERS = ("score", "progress")
_LISTS = ("admissible_actions", "answer")


def _plain(value: Any) -> Any:
    """Take the Python number out of one of numpy or torch, or of an array without axes."""
    if isinstance(value, int | float) or getattr(value, "shape", None) != ():
        return value
    return value.item()


def _named(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _well_formed(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, Mapping):
        return {_well_formed(key): _well_formed(item) for key, item in value.items()}
    return [_well_formed(item) for item in value] if isinstance(value, list | tuple) else value
