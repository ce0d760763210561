"""Count what failed in a run by kind; the first failure of each kind is logged."""

from __future__ import annotations

import logging
from collections import Counter

from ..foundation.printable import visible

logger = logging.getLogger(__name__)


class Faults:
    """The counts of what failed, kept by all who play in one pool."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """How often each kind of failure was met."""
        self.first: dict[str, str] = {}
        """The first failure of each kind as a sentence."""

    def note(self, kind: str, sentence: str, times: int = 1) -> None:
        """Count a failure, and log it if it is the first of its kind.

        Args:
            kind: what equal failures share, such as "env_error: ValueError (world.py:7 in _act)".
            sentence: this failure: where, and what.
            times: how many episodes it cost.
        """
        self.counts[kind] += times
        if kind not in self.first:
            self.first[kind] = sentence
            logger.warning(
                "%s; failures like this one are said once and counted", visible(sentence)
            )

    def since(self, before: Counter[str]) -> str:
        """Name the most frequent failure since the counts were `before`, with its number; or ''."""
        new = self.counts - before
        if not new:
            return ""
        kind, count = new.most_common(1)[0]
        others = len(new) - 1
        more = f", and {others} other kind{'s' * (others > 1)} of failure" if others else ""
        return f"{count} times {self.first[kind]}{more}"
