"""The parameters of the household worlds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from ...foundation.errors import nearest
from ..settings import EnvSettings
from .source import TYPES


class HouseSettings(EnvSettings):
    """The parameters that all household worlds have."""

    expert: Literal["shortest", "search"] = Field(
        "shortest",
        description=(
            "which expert plays: 'shortest' knows where everything is, 'search' what it has seen"
        ),
    )


class HomeSettings(HouseSettings):
    """Parameters of household/home."""

    types: list[str] | None = Field(
        None,
        description=(
            f"task types that are played, of {', '.join(TYPES)} (default: all); each Task names its"
            " own"
        ),
    )

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
        """List the task types that are played, in their fixed order."""
        return self.types or list(TYPES)


class OfficialSettings(HomeSettings):
    """Parameters of alfworld/text."""

    data: str | None = Field(
        None,
        description=(
            "folder that holds json_2.1.1 (default: $ALFWORLD_DATA, else ~/.cache/alfworld)"
        ),
    )

    @field_validator("data")
    @classmethod
    def _absolute(cls, data: str | None) -> str | None:
        # A Task travels to processes with other working directories.
        return None if data is None else str(Path(data).expanduser().resolve())
