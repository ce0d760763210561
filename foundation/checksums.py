"""Checksums of what the cache keeps, in the format of ``sha256sum``::

    write_sums(made)          # made/SHA256SUMS in a folder, made.sha256 beside a file
    intact(path)              # its files are those that were made, to the byte

A file of up to `LARGE` bytes is read through by every process that opens it. A larger one is read
through again only if it was touched since that was last done, so that a corpus of many gigabytes
does not delay every worker.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from .manifest import digest

LARGE = 64 * 2**20
"""Bytes; reading that much takes some hundredths of a second."""
INSIDE = "SHA256SUMS"
"""Name of the file of checksums in a folder."""
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_State = tuple[tuple[int, int, int, int], ...]
_known: dict[Path, _State] = {}
"""What this process found intact, and the state of its files then."""


def sums_of(path: Path, *, folder: bool) -> Path:
    """Name the file of checksums of a file or `folder`."""
    return path / INSIDE if folder else path.with_name(f"{path.name}.sha256")


def write_sums(made: Path, beside: Sequence[str] = ()) -> Path:
    """Write the checksums of a file or folder and return their file.

    Args:
        made: what was made.
        beside: suffixes of files that were made with it.
    """
    folder = made.is_dir()
    # The file itself comes last, so that a list that was cut short is no list of it.
    files = _files(made) if folder else [*(made.with_suffix(suffix) for suffix in beside), made]
    sums = sums_of(made, folder=folder)
    sums.write_text("".join(f"{digest(file)}  {_name(file, sums)}\n" for file in files), "utf-8")
    return sums


def intact(path: Path) -> bool:
    """Tell whether a file or folder is there as it was made.

    Raises OSError where it cannot be read for another reason than that it is missing.
    """
    folder = path.is_dir()
    sums = sums_of(path, folder=folder)
    try:
        digests = _read(sums)
        files = {name: sums.parent / name for name in digests}
        state = _state([*files.values(), sums])
        if _known.get(path) == state:
            return True
        complete = (
            files.keys() == {_name(file, sums) for file in _files(path)}
            if folder
            else path.name in files
        )
        since = sums.stat().st_mtime_ns
        asked = [name for name, file in files.items() if not _trusted(file, since)]
        if not complete or any(digest(files[name]) != digests[name] for name in asked):
            return False
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return False
    if any(files[name].stat().st_size > LARGE for name in asked):
        # The time of the sums notes when large files were last read through; where that cannot be
        # noted they are read again next time.
        with contextlib.suppress(OSError):
            os.utime(sums)
            state = _state([*files.values(), sums])
    _known[path] = state
    return True


def _trusted(file: Path, since: int) -> bool:
    """Tell whether a file is large and was last touched before its checksum was last looked at."""
    seen = file.stat()
    return seen.st_size > LARGE and seen.st_ctime_ns <= since


def _read(sums: Path) -> dict[str, str]:
    """Read digests by the names of files. Raises ValueError for anything but whole lines."""
    digests = {}
    for line in sums.read_text("utf-8").splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"{sums} is damaged")
        digests[found[2]] = found[1]
    return digests


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / INSIDE)


def _name(file: Path, sums: Path) -> str:
    return file.relative_to(sums.parent).as_posix()


def _state(files: Iterable[Path]) -> _State:
    seen = (file.stat() for file in files)
    return tuple((s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in seen)
