"""Faults: what failed in a run, counted by kind; the first of each kind is said on stderr, once."""

from __future__ import annotations

import warnings
from collections import Counter

from ..foundation.printable import visible


class Faults:
    """The ledger of all who play in one pool."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """How often each kind of failure was met."""
        self.first: dict[str, str] = {}
        """The first failure of each kind as a sentence."""

    def note(self, kind: str, sentence: str, times: int = 1) -> None:
        """Count a failure; the first of its kind is a warning.

        Args:
            kind: what equal failures share, such as "env_error: ValueError (world.py:7 in _act)".
            sentence: this failure: where, and what.
            times: how many episodes it cost.
        """
        self.counts[kind] += times
        if kind not in self.first:
            self.first[kind] = sentence
            warnings.warn(
                f"{visible(sentence)}; failures like this one are said once and counted",
                stacklevel=2,
            )

    def since(self, before: Counter[str]) -> str:
        """Return the most frequent failure since the counts were `before`, as a sentence with its
        number; or ''.
        """
        new = self.counts - before
        if not new:
            return ""
        kind, count = new.most_common(1)[0]
        others = len(new) - 1
        more = f", and {others} other kind{'s' * (others > 1)} of failure" if others else ""
        return f"{count} times {self.first[kind]}{more}"
