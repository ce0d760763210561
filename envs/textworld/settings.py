"""The parameters of the five families, and what TextWorld's makers are told.

The range a seed lies in is part of what the game is: TextWorld's simple and cooking games keep
other foods and preparations for validation and test, and a seed from those ranges draws from them::

    seeds 0 to 999,999: train      1,000,000 to 1,999,999: valid      2,000,000 and above: test
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ...foundation.errors import UserError
from ..settings import EnvSettings
from ..task import Split, split_of

MAX_SEED = 2**32 - 1


class GameSettings(EnvSettings):
    """The parameters that all families share, in Tasks at their default too."""

    family: ClassVar[str]
    maker: ClassVar[str]
    """'custom' or the name of a TextWorld challenge."""

    def params(self) -> dict[str, Any]:
        """Return all parameters, also those at their default."""
        return self.model_dump()

    def for_maker(self, split: Split) -> dict[str, Any]:
        """Return what the maker of a game is told, for a seed of this split's range."""
        return self.model_dump()


class QuestSettings(GameSettings):
    """``tw-make custom --world-size --nb-objects --quest-length``."""

    family, maker = "quest", "custom"
    rooms: int = Field(2, ge=1, le=50, description="rooms of the house")
    objects: int = Field(3, ge=1, le=100, description="fewest things in the house")
    quest_length: int = Field(4, ge=1, le=50, description="actions that the quest takes")


class CoinSettings(GameSettings):
    """``tw-make tw-coin_collector --level``."""

    family, maker = "coin", "tw-coin_collector"
    level: int = Field(
        5,
        ge=1,
        le=233,
        description=(
            "number of rooms to the coin, up to 100; 101 to 150 and 201 to 233 repeat it with one"
            " and two dead ends per room"
        ),
    )

    @property
    def length(self) -> int:
        """Count the rooms on the way to the coin."""
        return (self.level - 1) % 100 + 1

    @model_validator(mode="after")
    def _fits(self) -> CoinSettings:
        # A z8 file has room for about a hundred rooms; each block of 100 levels adds one dead end
        # per room.
        if ((self.level - 1) // 100 + 1) * self.length > 100:
            raise ValueError(
                "use 1 to 100, 101 to 150 or 201 to 233: TextWorld makes at most 100 rooms"
            )
        return self


class TreasureSettings(GameSettings):
    """``tw-make tw-treasure_hunter --level``. Levels above 20 take minutes of CPU per game."""

    family, maker = "treasure", "tw-treasure_hunter"
    level: int = Field(
        1,
        ge=1,
        le=20,
        description=(
            "difficulty of the maze: 1 to 10 have 5 empty rooms, 11 to 20 have 10 rooms with doors"
            " and containers"
        ),
    )


class SimpleSettings(GameSettings):
    """``tw-make tw-simple --rewards --goal``, with ``--test`` for seeds of the test range."""

    family, maker = "simple", "tw-simple"
    rewards: Literal["dense", "balanced", "sparse"] = Field(
        "dense",
        description=(
            "what earns points: each step of the walkthrough ('dense'), some ('balanced') or the"
            " last ('sparse')"
        ),
    )
    goal: Literal["detailed", "brief", "none"] = Field(
        "detailed", description="how much the opening tells of what to do"
    )

    def for_maker(self, split: Split) -> dict[str, Any]:
        """Return what the maker is told: the parameters, and whether the foods are the test's."""
        return {**self.model_dump(), "test": split == "test"}


class CookingSettings(GameSettings):
    """``tw-make tw-cooking``, with ``--split`` by the seed's range."""

    family, maker = "cooking", "tw-cooking"
    recipe: int = Field(1, ge=1, le=5, description="ingredients of the recipe")
    take: int = Field(
        1, ge=0, le=5, description="ingredients that must be found; the others are carried"
    )
    go: Literal[1, 6, 9, 12] = Field(1, description="rooms of the house")
    open: bool = Field(False, description="doors and containers start closed")
    cook: bool = Field(False, description="ingredients need cooking")
    cut: bool = Field(False, description="ingredients need cutting")
    drop: bool = Field(False, description="the inventory is limited")

    @model_validator(mode="after")
    def _ingredients(self) -> CookingSettings:
        if self.take > self.recipe:
            raise ValueError(
                f"take={self.take} must not exceed recipe={self.recipe}, the number of ingredients"
            )
        return self

    def for_maker(self, split: Split) -> dict[str, Any]:
        """Return what the maker is told: the parameters, and whose foods and preparations."""
        return {**self.model_dump(), "recipe_seed": 0, "split": split}


FAMILIES: dict[str, type[GameSettings]] = {
    settings.family: settings
    for settings in (QuestSettings, CoinSettings, TreasureSettings, SimpleSettings, CookingSettings)
}


def job_for(family: str, params: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Write the worker's job for a game, less the path.

    Raises UserError for bad parameters or a seed beyond 32 bits.
    """
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"textworld/{family}: seed {seed} is out of range, use 0 to {MAX_SEED}")
    settings = FAMILIES[family].of(params, f"textworld/{family}")
    return {
        "maker": settings.maker,
        "settings": settings.for_maker(split_of(seed)),
        "seed": seed,
    }
