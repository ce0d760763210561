"""Parameters of the household worlds, checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from ...foundation.config import explain
from ...foundation.errors import UserError, nearest
from .source import TYPES


class HouseParams(BaseModel):
    """Of all household worlds. What is left at its default does not appear in Tasks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    expert: Literal["shortest", "search"] = "shortest"


class HomeParams(HouseParams):
    """Of household/home. `types` None means all six."""

    types: list[str] | None = None

    @field_validator("types")
    @classmethod
    def _known(cls, types: list[str] | None) -> list[str] | None:
        if types is None:
            return None
        for type in types:
            if type not in TYPES:
                raise ValueError(f"no task type '{type}'; {nearest(type, list(TYPES))}")
        if not types:
            raise ValueError(f"name at least one of {', '.join(TYPES)}")
        # One order, so that the same choice is the same tasks.
        return [type for type in TYPES if type in types]

    @property
    def chosen(self) -> list[str]:
        """The task types, in their fixed order."""
        return self.types or list(TYPES)


class OfficialParams(HomeParams):
    """Of alfworld/text. `data` None means $ALFWORLD_DATA."""

    data: str | None = None

    @field_validator("data")
    @classmethod
    def _absolute(cls, data: str | None) -> str | None:
        # A Task travels to processes with other working directories.
        return None if data is None else str(Path(data).expanduser().resolve())


P = TypeVar("P", bound=HouseParams)


def check(model: type[P], name: str, params: Mapping[str, Any]) -> P:
    """The complete parameters. Raises UserError naming the first that is unknown or wrong."""
    try:
        return model.model_validate(dict(params))
    except ValidationError as error:
        raise UserError(explain(error, name, {"": list(model.model_fields)})) from None
