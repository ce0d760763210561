"""BadRows: what to do about the rows of a file that cannot be read::

    bad = BadRows("search/qa")
    for place, row in rows:
        try: ...
        except ValueError as problem: bad.add(f"{place}: {problem}")
    bad.settle(len(rows))          # says how many were left out, or refuses the file

One of a million must not refuse the other ones.
"""

from __future__ import annotations

import logging

from ..foundation.errors import UserError

logger = logging.getLogger(__name__)


class BadRows:
    """Counts the rows of a file that cannot be read.

    Args:
        what: whose file it is, in front of each sentence.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.count = 0
        self.first = ""

    def add(self, problem: str) -> None:
        """Count one bad row. `problem` says where it is and what is wrong with it."""
        self.count += 1
        self.first = self.first or problem

    def settle(self, rows: int) -> None:
        """Warn about the rows that were left out; refuse a file that has too many of them.

        Args:
            rows: how many the file has, bad ones included.

        Raises UserError if more than one row in a hundred is bad; of ten rows or more, one may
        always be.
        """
        if not self.count:
            return
        if self.count > max(rows // 100, int(rows >= 10)):
            more = f" ({self.count} of {rows} rows cannot be read)" if self.count > 1 else ""
            raise UserError(f"{self.what}: {self.first}{more}")
        left_out = (
            f"{self.count} of {rows} rows cannot be read and {'is' if self.count == 1 else 'are'}"
            " left out"
        )
        logger.warning("%s: %s; the first: %s", self.what, left_out, self.first)
