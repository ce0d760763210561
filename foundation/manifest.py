"""Digests of what was written, so that damage is found before anything is read out of it.

A checkpoint, and a run that has ended, holds ``manifest.json``: the SHA-256 of each of its files. A
text may carry its own in its first line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import explaining_os_errors, write_text

MANIFEST_FILE = "manifest.json"
_ADVICE = f"restore the folder from a copy, or delete its {MANIFEST_FILE} if the change was meant"
_SEAL = "# sha256 of what follows: "


def write_manifest(folder: Path, paths: Iterable[Path] | None = None, **about: Any) -> None:
    """Write the digests of a folder's files, default all, and what else is to be known of it."""
    chosen = folder.rglob("*") if paths is None else paths
    names = sorted(str(path.relative_to(folder)) for path in chosen if path.is_file())
    files = {name: digest(folder / name) for name in names if name != MANIFEST_FILE}
    content = {"files": files, **about}
    text = json.dumps(content | {"sha256": _digest_of(content)}, indent=1)
    write_text(folder / MANIFEST_FILE, text + "\n")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read what `write_manifest` wrote, or None for a folder without it.

    Raises UserError if it is damaged.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        good = content.pop("sha256") == _digest_of(content) and isinstance(content["files"], dict)
    except (ValueError, KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise UserError(f"'{path}' is damaged: {_ADVICE}")
    return dict(content)


def check_manifest(folder: Path, advice: str = "") -> dict[str, Any] | None:
    """Compare each file of a folder with its digest, and return what `read_manifest` does.

    Args:
        advice: what can be done about damage, for the sentence.

    Raises:
        UserError: a file is missing or damaged; it names the first one.
    """
    advice, content = advice or _ADVICE, read_manifest(folder)
    for name, wanted in (content or {"files": {}})["files"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"'{path}' is missing: {advice}")
        with explaining_os_errors(path, "read"):
            if digest(path) != wanted:
                raise UserError(f"'{path}' is damaged, it is not what was saved: {advice}")
    return content


def digest(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(text: str) -> str:
    """Return a text with its digest in a comment before it."""
    return f"{_SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def unsealed(text: str, path: Path) -> str:
    """Take the seal off a text that may be `sealed`. Raises UserError if the text was changed."""
    head, newline, rest = text.partition("\n")
    if not head.startswith(_SEAL):
        return text
    if not newline or head != sealed(rest).partition("\n")[0]:
        raise UserError(
            f"'{path}' is damaged, it is not what the run wrote: restore it, or delete its first"
            " line if the change was meant"
        )
    return rest


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
