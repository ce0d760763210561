"""TorchRequest: a request inside the torch engine, and which of them are encoded together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ...models.rows import CacheRow
from ..base import Sampling
from ..scheduler import Request


@dataclass(slots=True, eq=False)
class TorchRequest(Request):
    """A request that waits, or decodes in a row of the cache."""

    tokens: list[int]
    """The prompt and what was sampled so far, or the tokens to score."""
    sampling: Sampling
    start: int | None
    """First token to score; None for a generation."""
    future: asyncio.Future[Any]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    row: CacheRow | None = None
    version: int | None = None

    @property
    def admitted_row(self) -> CacheRow:
        """Return the row of a request that was admitted."""
        assert self.row is not None
        return self.row


def together(requests: Iterable[TorchRequest], budget: int) -> list[list[TorchRequest]]:
    """Put requests into groups to encode at once: of similar length, within a budget.

    The budget is of padded tokens. Each group is in the order of its rows.
    """
    new = {request: len(request.tokens) - len(request.admitted_row.tokens) for request in requests}
    groups: list[list[TorchRequest]] = []
    width = 0
    for request in sorted(new, key=lambda request: -new[request]):
        if not groups or (len(groups[-1]) + 1) * width > budget or new[request] < width // 2:
            groups.append([])
            width = new[request]
        groups[-1].append(request)
    return [sorted(group, key=lambda request: request.admitted_row.index) for group in groups]
