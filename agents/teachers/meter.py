"""Meter: what a server was asked for, what that cost, and the budget that ends it::

meter = Meter(budget_usd=1.0, price_in=0.15, price_out=0.6)
meter.admit()  # raises BudgetSpent once it is spent
meter.add(Usage(prompt=1200, written=40))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from pydantic import BaseModel, Field

from ...foundation.errors import UserError


class BudgetSpent(Exception):
    """The budget of a server is spent, so nothing more is asked of it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, as the server counts them."""

    prompt: int
    written: int
    cached: int = 0
    """Tokens of the prompt that it found in a cache."""

    @classmethod
    def of(cls, data: dict[str, Any]) -> Usage | None:
        """Read the usage of a completion; None where the server tells none."""
        found = data.get("usage")
        if not isinstance(found, dict):
            return None
        prompt, written = found.get("prompt_tokens"), found.get("completion_tokens")
        if not _is_count(prompt) or not _is_count(written):
            return None
        details = found.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        return cls(prompt, written, min(cached, prompt) if _is_count(cached) else 0)


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value >= 0


class ServerUse(BaseModel):
    """What a server was asked for during an evaluation."""

    url: str = Field(description="address of the server, without what is secret in it")
    model: str = Field(description="name of the model there")
    requests: int = Field(description="requests that were answered")
    failed_requests: int = Field(
        description="attempts that were not, those that were tried again among them"
    )
    prompt_tokens: int = Field(description="tokens of all prompts, as the server counts them")
    cached_tokens: int = Field(description="tokens of them that the server found in a cache")
    written_tokens: int = Field(description="tokens of all responses, reasoning included")
    cost_usd: float | None = Field(
        description="price of the tokens in US dollars; null without prices"
    )
    seconds_p50: float | None = Field(
        description="median time of an answered request, without waiting for its turn"
    )
    seconds_p95: float | None = Field(description="time that one answered request in 20 exceeds")
    budget_tokens: int | None = Field(description="tokens after which no more was asked")
    budget_usd: float | None = Field(description="US dollars after which no more was asked")
    budget_spent: bool = Field(description="the budget ended the evaluation")

    @property
    def text(self) -> str:
        """Say in one line how much was asked, what it cost and how long it took."""
        parts = [
            f"{self.requests:,} requests ({self.failed_requests:,} failed)",
            f"{self.prompt_tokens:,} tokens in, {self.written_tokens:,} out",
        ]
        if self.cost_usd is not None:
            parts.append(f"${self.cost_usd:,.4f}")
        if self.seconds_p50 is not None:
            parts.append(f"{self.seconds_p50:.2f} s a request (p95 {self.seconds_p95:.2f} s)")
        return ", ".join(parts)


class Meter:
    """Counts what one server is asked for. Prices are US dollars per million tokens."""

    def __init__(
        self,
        *,
        budget_tokens: int | None = None,
        budget_usd: float | None = None,
        price_in: float | None = None,
        price_out: float | None = None,
    ) -> None:
        self.budget_tokens, self.budget_usd = budget_tokens, budget_usd
        self.price_in, self.price_out = price_in, price_out
        self.prompt = self.cached = self.written = 0
        self.failed = 0
        """Attempts without an answer that can be read."""
        self.seconds: list[float] = []
        """Time of each answered request."""
        self.stopped = False
        """A request was not made because the budget was spent."""

    @property
    def cost_usd(self) -> float | None:
        """Return the price of all tokens so far; None without prices."""
        if self.price_in is None or self.price_out is None:
            return None
        return (self.prompt * self.price_in + self.written * self.price_out) / 1e6

    def admit(self) -> None:
        """Raise BudgetSpent if what was answered so far has reached the budget."""
        spent = []
        if self.budget_tokens is not None and self.prompt + self.written >= self.budget_tokens:
            spent.append(f"{self.budget_tokens:,} tokens")
        if self.budget_usd is not None and (self.cost_usd or 0.0) >= self.budget_usd:
            spent.append(f"${self.budget_usd:g}")
        if spent:
            self.stopped = True
            raise BudgetSpent(f"the budget of {' and '.join(spent)} is spent")

    def add(self, usage: Usage | None) -> None:
        """Count the tokens of a request, whatever becomes of its answer.

        Raises UserError if there is a budget and the server does not tell how many it used.
        """
        if usage is not None:
            self.prompt += usage.prompt
            self.written += usage.written
            self.cached += usage.cached
        elif self.budget_tokens is not None or self.budget_usd is not None:
            raise UserError("the server tells no token counts (usage): a budget cannot be kept")

    def report(self, url: str, model: str) -> ServerUse:
        """Return what was counted so far."""
        return ServerUse(
            url=url,
            model=model,
            requests=len(self.seconds),
            failed_requests=self.failed,
            prompt_tokens=self.prompt,
            cached_tokens=self.cached,
            written_tokens=self.written,
            cost_usd=self.cost_usd,
            seconds_p50=percentile(self.seconds, 0.5),
            seconds_p95=percentile(self.seconds, 0.95),
            budget_tokens=self.budget_tokens,
            budget_usd=self.budget_usd,
            budget_spent=self.stopped,
        )


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that at least this share of all does not exceed; None of none."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else None
