"""Files and folders that are whole or not there: written beside their place, then renamed to it.

What is unfinished is called ``.NAME.PID.new`` and what it replaces ``.NAME.PID.old``; after a
failure neither is left, and `tidy` removes what a killed process left. Everything is on the disk
before it gets its name, so that a power cut leaves the old content or the new one. A `UserError`
says in one sentence what could not be written and why.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Lend a name beside `path`, and rename the file written there to `path` at the end."""
    beside = _beside(path, "new")
    with explaining_os_errors(path):
        try:
            yield beside
            _flush(beside)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        _flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a file as UTF-8, whole or not at all. Raises UserError, the old content unchanged."""
    with new_file(path) as beside:
        beside.write_text(text, "utf-8")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Lend an empty folder beside `path`, and put it in the place of `path` at the end.

    Raises UserError if something cannot be written; the old content of `path` is then still there.
    """
    beside, old = _beside(path, "new"), _beside(path, "old")
    with explaining_os_errors(path):
        for left in (beside, old):
            _remove(left)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
        try:
            yield beside
            for file in (*beside.rglob("*"), beside):
                _flush(file)
            _replace(beside, path, old)
            _flush(path.parent)
        finally:
            _remove(beside)
            # Where the new one is not in its place, the old one is all that there is.
            if path.exists():
                _remove(old)


def _replace(new: Path, path: Path, old: Path) -> None:
    if path.exists():
        os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise


def _remove(folder: Path) -> None:
    """Remove a folder, to the end even if a signal interrupts that."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def tidy(folder: Path) -> None:
    """Remove what killed processes left in a folder, where nobody may be writing.

    What was about to be replaced comes back if nothing took its place.
    """
    for old in sorted(folder.glob(".*.old"), key=lambda path: path.stat().st_mtime, reverse=True):
        path = folder / old.name[1:].rsplit(".", 2)[0]
        if not path.exists():
            os.rename(old, path)
    for left in (*folder.glob(".*.new"), *folder.glob(".*.old")):
        if re.fullmatch(r"\..+\.\d+\.(new|old)", left.name):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextmanager
def explaining_os_errors(path: Path, what: str = "write") -> Iterator[None]:
    """Turn what the operating system refuses into a UserError, one sentence about `path`.

    Args:
        path: the file or folder that is used.
        what: what is done with it, as the sentence says it.
    """
    try:
        yield
    except Exception as error:
        chain = list(_chain(error))
        # Libraries that call back into Python raise an error of their own when a signal ends the
        # callback.
        if interrupt := next((seen for seen in chain if isinstance(seen, KeyboardInterrupt)), None):
            raise interrupt from None
        reason = (
            None if isinstance(error, UserError) else next(filter(None, map(_refusal, chain)), None)
        )
        if reason is None:
            raise
        raise UserError(f"cannot {what} '{path}': {reason}") from None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refusal(error: BaseException) -> str | None:
    """Return why the operating system refused, if that is what an error says."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # Libraries that are not written in Python say it in their own words: "File too large (os error
    # 27)".
    found = re.search(r"\(os error (\d+)\)", str(error))
    return os.strerror(int(found[1])) if found else None


def finite(data: Any) -> Any:
    """Return nested data as JSON can hold it: NaN and infinities become null."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{kind}")


def _flush(path: Path) -> None:
    """Force a file, or the names in a folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
