"""Parameters of the five families, checked, and what TextWorld's makers are told.

The range a seed lies in is part of what the game is: TextWorld's simple and cooking games keep
other foods and preparations for validation and test, and a seed from those ranges draws from them::

    seeds 0 to 999,999: train      1,000,000 to 1,999,999: valid      2,000,000 and above: test
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ...foundation.config import explain
from ...foundation.errors import UserError
from ..task import SPLITS, Split

SEEDS_PER_SPLIT = 1_000_000
MAX_SEED = 2**32 - 1


class Params(BaseModel):
    """Base of a family's parameters: strict about names and ranges, complete after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    maker: ClassVar[str]
    """'custom' or the name of a TextWorld challenge."""

    def settings(self, split: Split) -> dict[str, Any]:
        """What the maker is told, for a seed of this split's range."""
        return self.model_dump()


class QuestParams(Params):
    """``tw-make custom --world-size --nb-objects --quest-length``."""

    maker = "custom"
    rooms: int = Field(2, ge=1, le=50)
    objects: int = Field(3, ge=1, le=100)
    quest_length: int = Field(4, ge=1, le=50)


class CoinParams(Params):
    """``tw-make tw-coin_collector --level``."""

    maker = "tw-coin_collector"
    level: int = Field(5, ge=1, le=233)

    @property
    def length(self) -> int:
        """Rooms on the way to the coin."""
        return (self.level - 1) % 100 + 1

    @model_validator(mode="after")
    def _fits(self) -> CoinParams:
        # A z8 file has room for about a hundred rooms; each block of 100 levels adds one dead end
        # per room.
        if ((self.level - 1) // 100 + 1) * self.length > 100:
            raise ValueError(
                "use 1 to 100, 101 to 150 or 201 to 233: TextWorld makes at most 100 rooms"
            )
        return self


class TreasureParams(Params):
    """``tw-make tw-treasure_hunter --level``. Levels above 20 take up to minutes of CPU per game."""

    maker = "tw-treasure_hunter"
    level: int = Field(1, ge=1, le=20)


class SimpleParams(Params):
    """``tw-make tw-simple --rewards --goal``, with ``--test`` for seeds of the test range."""

    maker = "tw-simple"
    rewards: Literal["dense", "balanced", "sparse"] = "dense"
    goal: Literal["detailed", "brief", "none"] = "detailed"

    def settings(self, split: Split) -> dict[str, Any]:
        """As the base class, with the foods of the split."""
        return {**self.model_dump(), "test": split == "test"}


class CookingParams(Params):
    """``tw-make tw-cooking``, with ``--split`` by the seed's range."""

    maker = "tw-cooking"
    recipe: int = Field(1, ge=1, le=5)
    take: int = Field(1, ge=0, le=5)
    go: Literal[1, 6, 9, 12] = 1
    open: bool = False
    cook: bool = False
    cut: bool = False
    drop: bool = False

    @model_validator(mode="after")
    def _ingredients(self) -> CookingParams:
        if self.take > self.recipe:
            raise ValueError(
                f"take={self.take} must not exceed recipe={self.recipe}, the number of ingredients"
            )
        return self

    def settings(self, split: Split) -> dict[str, Any]:
        """As the base class, with the foods and preparations of the split."""
        return {**self.model_dump(), "recipe_seed": 0, "split": split}


FAMILIES: dict[str, type[Params]] = {
    "quest": QuestParams,
    "coin": CoinParams,
    "treasure": TreasureParams,
    "simple": SimpleParams,
    "cooking": CookingParams,
}


def check(family: str, params: Mapping[str, Any]) -> Params:
    """The complete parameters. Raises UserError naming the first that is unknown or out of range."""
    model = FAMILIES[family]
    try:
        return model.model_validate(dict(params))
    except ValidationError as error:
        raise UserError(
            explain(error, f"textworld/{family}", {"": list(model.model_fields)})
        ) from None


def split_of(seed: int) -> Split:
    """The split whose range a seed lies in."""
    return SPLITS[min(seed // SEEDS_PER_SPLIT, 2)]


def job_for(family: str, params: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The worker's job for a game, less the path. Raises UserError for bad parameters or a seed
    beyond 32 bits.
    """
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"textworld/{family}: seed {seed} is out of range, use 0 to {MAX_SEED}")
    checked = check(family, params)
    return {"maker": checked.maker, "settings": checked.settings(split_of(seed)), "seed": seed}
