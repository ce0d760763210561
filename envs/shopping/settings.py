"""The parameters of the two worlds, complete as they stand in Tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ..settings import EnvSettings

PRODUCTS = 10_000
_LEAST, _MOST = 100, 50_000


class ShopSettings(EnvSettings):
    """The goods of a shop; None for all that its files have."""

    products: int | None

    def params(self) -> dict[str, Any]:
        """Return the parameters that are not None."""
        return self.model_dump(exclude_none=True)


class WebShopSettings(ShopSettings):
    """Parameters of shopping/webshop."""

    products: int | None = Field(
        None,
        ge=1,
        description=(
            f"products of the generated catalogue, {_LEAST} to {_MOST} (default: {PRODUCTS}); with"
            " data how many records of its product file are read (default: all)"
        ),
    )
    data: str | None = Field(
        None, description="folder with WebShop's product and instruction files (default: none)"
    )
    goals: Literal["human", "synthetic"] = Field(
        "human", description="which instructions of the folder `data` are played"
    )
    strict: bool = Field(
        True,
        description=(
            "searching works on the search page only; upstream's text mode takes it anywhere"
            " (false)"
        ),
    )
    attributes: bool = Field(
        False, description="product pages link to a list of attributes, as upstream's `show_attrs`"
    )

    @model_validator(mode="before")
    @classmethod
    def _default(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("data") is not None or values.get("products") is not None:
            return values
        return {**values, "products": PRODUCTS}

    @field_validator("data")
    @classmethod
    def _absolute(cls, data: str | None) -> str | None:
        # A Task travels to processes with other working directories.
        return None if data is None else str(Path(data).expanduser().resolve())

    @model_validator(mode="after")
    def _generated(self) -> WebShopSettings:
        if self.data is None and not _LEAST <= (self.products or 0) <= _MOST:
            raise ValueError(
                f"products={self.products}: a generated catalogue has {_LEAST} to {_MOST}"
            )
        if self.data is None and self.goals == "synthetic":
            raise ValueError("goals=synthetic needs data, a folder with WebShop's files")
        return self


class AssistantSettings(ShopSettings):
    """Parameters of shopping/assistant; the usual expert does not stand in Tasks."""

    products: int = Field(
        PRODUCTS, ge=_LEAST, le=_MOST, description="products of the generated catalogue"
    )
    items: int = Field(
        2, ge=1, le=3, description="different things that a customer wants, within one budget"
    )
    expert: Literal["shortest", "search"] = Field(
        "shortest",
        description=(
            "which expert plays: 'shortest' knows what every product is, 'search' what it has seen"
        ),
    )

    def params(self) -> dict[str, Any]:
        """Return the parameters that are not None, less the usual expert."""
        told = super().params()
        return told if told["expert"] != "shortest" else {k: told[k] for k in ("products", "items")}
