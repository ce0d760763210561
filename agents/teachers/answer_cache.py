"""AnswerCache: answers of endpoints, in an SQLite file that several runs may share."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

PATIENCE = 10.0
"""Seconds that a call waits for another process that writes."""


class CacheError(Exception):
    """The cache file cannot be used: damaged, locked for too long, no database or read-only."""


class AnswerCache:
    """Answers of endpoints by key, in one file. All calls raise CacheError if it cannot be used.

    Each call opens the file anew, so threads, forks and other processes may use it, and a process
    that is killed leaves it whole.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def get(self, key: str) -> str | None:
        """Return the answer that was put there, None if there is none."""
        with self._open() as database:
            row = database.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return row[0] if row is not None and isinstance(row[0], str) else None

    def put(self, key: str, answer: str) -> None:
        """Keep an answer; of several to one question the first one stays."""
        with self._open() as database:
            database.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", (key, answer))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            path = Path(self.path).expanduser()
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as database:
                # Fails while another process makes the same change, without waiting; then there is
                # nothing to do here.
                with suppress(sqlite3.OperationalError):
                    database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = NORMAL")
                database.execute(
                    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT"
                    " NULL)"
                )
                yield database
        except (sqlite3.Error, OSError, ValueError, RuntimeError) as error:
            raise CacheError(f"{type(error).__name__}: {error}") from None
