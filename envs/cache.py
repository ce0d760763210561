"""What worlds make once and keep: games, indexes, catalogues, in files under one folder::

    path = kept(cache_dir("shopping") / "shop-1000.json", write_shop)   # write_shop(path) if it is not there yet

Whatever is made is made beside its place, in a folder that `private` lends, and renamed: what is there is complete.
Processes that make the same thing at once all succeed, because they make the same bytes; whoever comes second throws
its own away. What a killed process left behind is removed by the next one that makes something there.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

STALE_SECONDS = 24 * 3600
"""Nothing takes that long to make."""
_making = threading.RLock()


def cache_dir(*parts: str) -> Path:
    """A folder of the cache, which is ``turnrl`` under $XDG_CACHE_HOME or ~/.cache. It need not exist."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home, "turnrl", *parts)


def kept(path: Path, make: Callable[[Path], None]) -> Path:
    """`path`, a file or a folder, made by ``make(elsewhere)`` if it is not there yet.

    What `make` raises propagates and leaves nothing behind.
    """
    if path.exists():
        return path
    with _making:  # Threads that start together would make it once each.
        if not path.exists():
            with private(path.parent) as folder:
                made = folder / path.name
                make(made)
                settle(made, path)
    return path


def kept_folder(path: Path, fill: Callable[[Path], None]) -> Path:
    """`kept` of a folder, which ``fill(elsewhere)`` finds empty."""

    def make(folder: Path) -> None:
        folder.mkdir()
        fill(folder)

    return kept(path, make)


def settle(made: Path, path: Path) -> None:
    """Move what was made to its place, unless another process was first: what it made is the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.rename(path)
    except OSError:
        if not path.exists():
            raise


@contextmanager
def private(parent: Path) -> Iterator[Path]:
    """A folder in `parent` for this process alone, removed at the end; from it files can be renamed into `parent`."""
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    with tempfile.TemporaryDirectory(dir=parent, prefix=f"tmp-{platform.node()}-{os.getpid()}-") as folder:
        yield Path(folder)


def sweep(parent: Path) -> None:
    """Remove the private folders of processes that are no more."""
    for folder in parent.glob("tmp-*"):
        node, _, pid = folder.name.removeprefix("tmp-").rpartition("-")[0].rpartition("-")
        try:
            stale = time.time() - folder.stat().st_mtime > STALE_SECONDS
        except FileNotFoundError:
            continue
        # Another machine may share the cache, and its processes cannot be asked after.
        if stale or (node == platform.node() and pid.isdecimal() and not alive(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)


def alive(pid: int) -> bool:
    """Whether there is a process with that number on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
