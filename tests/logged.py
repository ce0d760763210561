"""What the package logs, as tests listen to it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager


class Listener(logging.Handler):
    """Keeps every text that is logged as a warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@contextmanager
def listening() -> Iterator[list[str]]:
    """Lend a list that takes what is logged while the context lasts."""
    listener, logger = Listener(), logging.getLogger("turnrl")
    logger.addHandler(listener)
    try:
        yield listener.said
    finally:
        logger.removeHandler(listener)


@contextmanager
def logged(match: str) -> Iterator[list[str]]:
    """Demand that something is logged that `match` is found in."""
    with listening() as said:
        yield said
    assert any(re.search(match, text) for text in said), said


@contextmanager
def nothing_logged() -> Iterator[None]:
    """Demand that nothing is logged."""
    with listening() as said:
        yield
    assert not said
