"""Show progress bars on stderr, so that what a program prints can be read by another one.

Where stderr is no terminal nothing is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


def bars(visible: bool) -> Progress:
    """Make a context for any number of bars, which disappear when it ends.

    Args:
        visible: show them, if stderr is a terminal.
    """
    from rich.progress import Progress

    from .terminal import Terminal

    console = Terminal(stderr=True)
    return Progress(console=console, transient=True, disable=not visible or not console.is_terminal)


@contextmanager
def bar(what: str, total: int, visible: bool) -> Iterator[Callable[[int], None]]:
    """Show one bar, and lend the function that moves it on.

    Args:
        what: the text beside it.
        total: how many things are to be done.
        visible: show it, if stderr is a terminal.

    Yields a function that is called with how many more of them are done.
    """
    with bars(visible) as progress:
        line = progress.add_task(what, total=total)
        yield lambda done: progress.advance(line, done)
