"""Keep what is made once, such as games and indexes, under one folder of the user's::

    path = make_once(cache_dir("shopping") / "shop-1000.json", write_shop)

``write_shop(elsewhere)`` is called if it is not there yet.

Whatever is made is made beside its place, in a folder that `private_folder` lends, and renamed with
its checksums: what is there is complete, and what was damaged since is made anew (`checksums.py`).
Processes that make the same thing at once all succeed, because they make the same bytes; whoever
comes second throws its own away. What a killed process left behind is removed by the next one that
makes something there.

The folder belongs to its user alone, and nothing in it is ever executed: no library, no pickle, no
expression.
"""

from __future__ import annotations

import errno
import logging
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from .checksums import intact, sums_of, write_sums
from .errors import UserError
from .processes import is_alive

logger = logging.getLogger(__name__)

STALE_SECONDS = 24 * 3600
"""Nothing takes that long to make."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_OTHERS_WRITE = 0o022
_making = threading.RLock()
_looked_at: set[Path] = set()


def cache_dir(*parts: str) -> Path:
    """Return the path of a folder of the cache: ``turnrl`` where the system keeps caches.

    That is $XDG_CACHE_HOME or ~/.cache on Linux. The folder need not exist. Raises UserError where
    the user has no such place.
    """
    try:
        root = platformdirs.user_cache_path("turnrl", appauthor=False)
    except RuntimeError:
        root = Path("~")
    if not root.is_absolute():
        raise UserError(
            "this user has no home folder: set XDG_CACHE_HOME to a folder where games and indexes"
            " can be kept"
        )
    return root.joinpath(*parts)


def make_once(path: Path, make: Callable[[Path], None]) -> Path:
    """Return `path`, a file or a folder, which ``make(elsewhere)`` makes unless it is there whole.

    What `make` raises propagates and leaves nothing behind. Raises UserError where the cache cannot
    be used.
    """
    if whole(path):
        return path
    with _making:  # Threads that start together would make it once each.
        if not whole(path):
            tell_damaged([path])
            with private_folder(path.parent) as folder:
                made = folder / path.name
                make(made)
                move_into_place(made, path)
    return path


def fill_once(path: Path, fill: Callable[[Path], None]) -> Path:
    """Return `path`, a folder, as `make_once` does; ``fill(elsewhere)`` is lent it empty."""

    def make(folder: Path) -> None:
        folder.mkdir()
        fill(folder)

    return make_once(path, make)


def whole(path: Path) -> bool:
    """Tell whether a file or folder of the cache is there as it was made.

    Raises UserError where it cannot be read.
    """
    try:
        _look_at_owner()
        return intact(path)
    except OSError as error:
        raise _unusable(error, path) from None


def tell_damaged(paths: Sequence[Path]) -> None:
    """Warn in one sentence of those of these paths that hold something that is not `whole`."""
    there = [path for path in paths if path.exists()]
    if there:
        others = f" and {len(there) - 1} others" if len(there) > 1 else ""
        logger.warning(
            "%s%s in the cache is damaged or of an earlier version, and is made anew",
            *(there[0], others),
        )


def move_into_place(made: Path, path: Path, beside: Sequence[str] = ()) -> None:
    """Move what was made to its place, unless another process was first: it made the same bytes.

    Args:
        made: a file or folder in a folder of `private_folder`, with the name that it is to have.
        path: its place. What is damaged there makes room.
        beside: suffixes of files that were made with it and are moved before it.
    """
    sums = write_sums(made, beside)
    path.parent.mkdir(parents=True, exist_ok=True)
    if intact(path):
        return
    if path.is_dir() or (made.is_dir() and path.exists()):
        path.rename(made.with_name(f"{made.name}.damaged"))
    # The file itself comes last: where it is, all that belongs to it is.
    if not made.is_dir():
        for suffix in beside:
            made.with_suffix(suffix).rename(path.with_suffix(suffix))
        sums.rename(sums_of(path, folder=False))
    try:
        made.rename(path)
    except OSError:
        if not intact(path):
            raise


@contextmanager
def private_folder(parent: Path) -> Iterator[Path]:
    """Lend a folder inside `parent` to this process alone, and remove it at the end.

    It is on the file system of `parent`, so that a file can be renamed from one to the other.
    Raises UserError where nothing can be written there.
    """
    try:
        if parent.is_relative_to(cache_dir()):
            cache_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
        parent.mkdir(parents=True, exist_ok=True)
        sweep(parent)
        lent = tempfile.TemporaryDirectory(
            dir=parent, prefix=f"tmp-{platform.node()}-{os.getpid()}-"
        )
    except OSError as error:
        raise _unusable(error, parent) from None
    with lent as folder:
        try:
            yield Path(folder)
        except OSError as error:
            if error.errno in _NO_ROOM or str(error.filename).startswith(str(parent)):
                raise _unusable(error, parent) from None
            raise


def _unusable(error: OSError, path: Path) -> UserError:
    named = error.filename or path
    return UserError(
        f"the cache cannot be used: {named}: {error.strerror or error}; make room or mend that"
        " folder, or set XDG_CACHE_HOME to another one"
    )


def _look_at_owner() -> None:
    """Keep others from changing what is in the cache, and warn where that cannot be done."""
    root = cache_dir()
    if root in _looked_at or not root.is_dir():
        return
    _looked_at.add(root)
    seen = root.stat()
    if seen.st_uid not in (os.getuid(), 0):
        what = f"belongs to another user (number {seen.st_uid})"
    elif seen.st_mode & _OTHERS_WRITE:
        what = "could be written to by other users"
    else:
        return
    advice = "who may have changed the games in it: set XDG_CACHE_HOME to a folder of your own"
    if seen.st_uid == os.getuid():
        root.chmod(seen.st_mode & ~_OTHERS_WRITE & 0o7777)
        advice = "which is ended now; remove it if you do not trust them"
    logger.warning("the cache %s %s, %s", root, what, advice)


def sweep(parent: Path) -> None:
    """Remove from a folder the private folders of processes that have ended."""
    for folder in parent.glob("tmp-*"):
        node, _, pid = folder.name.removeprefix("tmp-").rpartition("-")[0].rpartition("-")
        try:
            stale = time.time() - folder.stat().st_mtime > STALE_SECONDS
        except FileNotFoundError:
            continue
        # Another machine may share the cache, and its processes cannot be asked after.
        if stale or (node == platform.node() and pid.isdecimal() and not is_alive(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)
