"""Parameters of the two worlds, checked; complete after validation, as they stand in Tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ...foundation.config import explain
from ...foundation.errors import UserError

PRODUCTS = 10_000
_LEAST, _MOST = 100, 50_000


class ShopParams(BaseModel):
    """What a shop sells. `products` None means all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    products: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _default(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("data") is not None or values.get("products") is not None:
            return values
        return {**values, "products": PRODUCTS}

    @field_validator("products")
    @classmethod
    def _in_range(cls, products: int | None) -> int | None:
        if products is not None and products < 1:
            raise ValueError("use a positive number")
        return products

    @model_validator(mode="after")
    def _generated(self) -> ShopParams:
        generated = getattr(self, "data", None) is None
        if generated and not _LEAST <= (self.products or 0) <= _MOST:
            raise ValueError(
                f"products={self.products}: a generated catalogue has {_LEAST} to {_MOST}"
            )
        return self


class WebShopParams(ShopParams):
    """Of shopping/webshop: see `WebShopEnv`."""

    data: str | None = None
    goals: Literal["human", "synthetic"] = "human"
    strict: bool = True
    attributes: bool = False

    @field_validator("data")
    @classmethod
    def _absolute(cls, data: str | None) -> str | None:
        # A Task travels to processes with other working directories.
        return None if data is None else str(Path(data).expanduser().resolve())

    @model_validator(mode="after")
    def _upstream(self) -> WebShopParams:
        if self.data is None and self.goals == "synthetic":
            raise ValueError("goals=synthetic needs data, a folder with WebShop's files")
        return self


class AssistantParams(ShopParams):
    """Of shopping/assistant: see `AssistantEnv`."""

    items: int = Field(2, ge=1, le=3)
    expert: Literal["shortest", "search"] = "shortest"


P = TypeVar("P", bound=ShopParams)


def check(model: type[P], name: str, params: Mapping[str, Any]) -> P:
    """The complete parameters. Raises UserError naming the first that is unknown or out of range."""
    try:
        return model.model_validate(dict(params))
    except ValidationError as error:
        raise UserError(explain(error, name, {"": list(model.model_fields)})) from None
