"""A rate limit, and a breaker that stops asking a server which does not answer."""

from __future__ import annotations

from collections import deque

ROW = 3
"""Attempts in a row without an answer, over all questions, after which a server may count as
silent.
"""
PAUSE = 60.0
"""Seconds for which a silent server is not asked; they double while it stays silent, up to
`LONGEST_PAUSE`.
"""
LONGEST_PAUSE = 600.0


class RateLimit:
    """A limit of `per_minute` starts in any 60 seconds."""

    def __init__(self, per_minute: int) -> None:
        self._starts: deque[float] = deque(maxlen=per_minute)

    def reserve(self, now: float) -> float:
        """Take the next free start; return the seconds until then."""
        full = len(self._starts) == self._starts.maxlen
        start = max(now, self._starts[0] + 60.0) if full else now
        self._starts.append(start)
        return start - now


class Breaker:
    """A circuit breaker: closed while a server answers, open while it is silent.

    Once it has been open for a while, one question probes the server.

    It opens after `ROW` failed attempts in a row if the first of them began at least `silence`
    seconds ago, so a short break of the server is left to the retries of each question. Times are
    those of a monotonic clock.

    Args:
        silence: seconds.
    """

    def __init__(self, silence: float) -> None:
        self.silence = silence
        self.row = 0
        """Attempts in a row that failed."""
        self._since = 0.0
        self._until: float | None = None
        self._pause = PAUSE
        self._probing = False

    @property
    def open(self) -> bool:
        """Tell whether the server is not asked, but for a probe."""
        return self._until is not None

    def admit(self, now: float) -> bool | None:
        """Tell whether a question may be asked: False, True, or None for once, as a probe."""
        if self._until is None:
            return True
        if now < self._until or self._probing:
            return False
        self._probing = True
        return None

    def failed(self, began: float, now: float) -> None:
        """Count an attempt without an answer."""
        self._since = began if not self.row else min(self._since, began)
        self.row += 1
        if self._until is not None:
            if self._probing:
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
                self._until = now + self._pause
        elif self.row >= ROW and now - self._since >= self.silence:
            self._until = now + self._pause

    def answered(self) -> None:
        """Note that the server answered, whatever it said."""
        self.row, self._until, self._pause = 0, None, PAUSE

    def probed(self) -> None:
        """Note that the probe is over, with or without an answer."""
        self._probing = False
