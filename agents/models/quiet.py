"""What transformers says for itself: progress bars, which are hidden, and errors, which are cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the progress bars of transformers."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def brief(error: Exception) -> str:
    """Return the first line of what a library says, cut to a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip()[:200]
