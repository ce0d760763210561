"""Progress bars: on stderr, so that what a program prints can be read by another, and only where
somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


def bars(visible: bool) -> Progress:
    """A context for any number of bars, gone when it ends. Shows nothing unless stderr is a
    terminal.
    """
    from rich.progress import Progress

    from .terminal import Terminal

    console = Terminal(stderr=True)
    return Progress(console=console, transient=True, disable=not visible or not console.is_terminal)


@contextmanager
def bar(what: str, total: int, visible: bool) -> Iterator[Callable[[int], None]]:
    """One bar; the function it gives is told how many more are done."""
    with bars(visible) as progress:
        line = progress.add_task(what, total=total)
        yield lambda done: progress.advance(line, done)
