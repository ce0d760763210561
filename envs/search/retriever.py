"""The protocol of retrievers, their error, and the choice of the best passages by score.

A retriever that cannot answer raises `RetrieverError`: the episode is lost and counted, and not a
reward of zero.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from .store import Passage


class RetrieverError(RuntimeError):
    """The retriever failed. Never the player's fault."""


class Retriever(Protocol):
    """Finds passages. Called from many threads at once."""

    def search(self, query: str, k: int) -> list[Passage]:
        """Find the best k passages or fewer, the best first. Raises RetrieverError."""


def best(scores: np.ndarray[Any, Any], k: int) -> list[int]:
    """Find the places of the k highest positive scores, highest first; of equals the earlier."""
    # Most passages have no word of the query; leaving them out first makes this ten times quicker.
    places = np.flatnonzero(scores > 0)
    if len(places) > k:
        # All that are not below the k-th stay: which of equals come first must be no accident of
        # the partition.
        found = scores[places]
        places = places[found >= np.partition(found, len(found) - k)[len(found) - k]]
    order = np.lexsort((places, -scores[places]))
    return [int(place) for place in places[order[:k]]]
