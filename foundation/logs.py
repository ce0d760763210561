"""Show on stderr what the package logs, as a program does that a person started.

Every module logs to a logger of its own name, below ``turnrl``. Without `shown_on_stderr` nothing
of that is seen, unless the user of the library configures `logging`. What is logged as a warning
went otherwise than was asked for; as information, why something takes long.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

from .printable import one_line

ROOT = logging.getLogger("turnrl")


class StderrHandler(logging.Handler):
    """Writes each text that is logged to stderr, once, as one line that commands no terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of a record, unless it was written before."""
        kind = "warning: " if record.levelno >= logging.WARNING else ""
        line = f"turnrl: {kind}{one_line(record.getMessage())}"
        if line not in self._said:
            self._said.add(line)
            # Where nobody listens any more, what is going on goes on.
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"{line}\n")
                sys.stderr.flush()


@contextlib.contextmanager
def shown_on_stderr(wanted: bool = True) -> Iterator[None]:
    """Write what the package logs to stderr while the context lasts, if that is `wanted`.

    A context within another one adds nothing.
    """
    if not wanted or any(isinstance(handler, StderrHandler) for handler in ROOT.handlers):
        yield
        return
    handler, level = StderrHandler(), ROOT.level
    ROOT.addHandler(handler)
    ROOT.setLevel(logging.INFO)
    try:
        yield
    finally:
        ROOT.removeHandler(handler)
        ROOT.setLevel(level)
