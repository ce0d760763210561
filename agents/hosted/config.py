"""HostedConfig: where a model that plays is served, and what it may cost."""

from __future__ import annotations

from pydantic import Field, model_validator

from ..teachers.endpoint_config import EndpointConfig
from ..teachers.meter import Meter


class HostedConfig(EndpointConfig):
    """The address of a model that plays, its prices and its budget."""

    tokenizer: str | None = Field(
        None,
        description=(
            "folder of the model's tokenizer: prompts are sent as token ids to the completions"
            " route, as vLLM takes them (default: messages to the chat route)"
        ),
    )
    budget_tokens: int | None = Field(
        None, ge=1, description="tokens of prompts and responses after which no more is asked"
    )
    budget_usd: float | None = Field(
        None, gt=0, description="US dollars after which no more is asked; needs both prices"
    )
    price_in: float | None = Field(
        None, ge=0, description="US dollars per million tokens of prompts"
    )
    price_out: float | None = Field(
        None, ge=0, description="US dollars per million tokens of responses"
    )

    @model_validator(mode="after")
    def _has_both_prices(self) -> HostedConfig:
        prices = [price for price in (self.price_in, self.price_out) if price is not None]
        if len(prices) == 1 or (self.budget_usd is not None and not prices):
            raise ValueError("a cost needs both prices: price_in and price_out")
        return self

    def meter(self) -> Meter:
        """Make a meter that knows the prices and keeps the budget."""
        return Meter(
            budget_tokens=self.budget_tokens,
            budget_usd=self.budget_usd,
            price_in=self.price_in,
            price_out=self.price_out,
        )
