"""Pending: a request inside the torch engine, and which of them are encoded together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..models.kv_cache import Slot
from .base import Sampling


@dataclass(slots=True, eq=False)
class Pending:
    """A request in the engine: waiting, or decoding in a slot."""

    tokens: list[int]
    """The prompt and what was sampled so far, or the tokens to score."""
    sampling: Sampling
    session: str | None
    start: int | None
    """First token to score; None for a generation."""
    future: asyncio.Future[Any]
    arrival: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    slot: Slot | None = None
    version: int | None = None


def slot_of(row: Pending) -> Slot:
    """The slot of a request that was admitted."""
    assert row.slot is not None
    return row.slot


def groups_of(rows: Iterable[Pending], budget: int) -> list[list[Pending]]:
    """Rows to encode together: of similar length, within the budget of padded tokens, in the order
    of the slots.
    """
    new = {row: len(row.tokens) - len(slot_of(row).tokens) for row in rows}
    groups: list[list[Pending]] = []
    width = 0
    for row in sorted(new, key=lambda row: -new[row]):
        if not groups or (len(groups[-1]) + 1) * width > budget or new[row] < width // 2:
            groups.append([])
            width = new[row]
        groups[-1].append(row)
    return [sorted(group, key=lambda row: slot_of(row).index) for group in groups]
