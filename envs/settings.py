"""EnvSettings: the parameters of a world, each written once with default, bounds and help::

    from pydantic import Field
    from turnrl import EnvSettings, TextEnv

    class MazeEnv(TextEnv):
        class Settings(EnvSettings):
            rooms: int = Field(4, ge=1, le=50, description="rooms of the maze")

        settings: Settings

``turnrl.make("my/maze-v0", rooms=9)``, the ``env`` block of a recipe and ``turnrl envs my/maze-v0``
read these fields. An instance has them as ``self.settings``; what is not at its default stands in
the instance's Tasks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ..foundation.config import explain, keys_of
from ..foundation.errors import UserError
from .task import Task


class EnvSettings(BaseModel):
    """The parameters of a world; one without parameters has this class itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def of(cls, params: Mapping[str, Any], what: str) -> Self:
        """Make settings of JSON values; `what` begins the sentence of a UserError.

        Raises UserError for a key or a value that does not belong there.
        """
        for key, value in params.items():
            if not _is_plain(value):
                raise UserError(
                    f"{what}: the parameter '{key}' is a {type(value).__name__}: parameters are"
                    " numbers, words, true, false, null, and lists and mappings of them"
                )
            if not cls.model_fields:
                raise UserError(
                    f"{what}: unknown key '{key}': this world takes no parameters (one of your own"
                    " declares them in a class Settings(EnvSettings))"
                )
        try:
            return cls.model_validate(json.loads(json.dumps(dict(params))))
        except ValidationError as error:
            raise UserError(explain(error, what, keys_of(cls))) from None

    @classmethod
    def of_task(cls, task: Task) -> Self:
        """Make the settings that a Task names. Raises UserError as `of`."""
        return cls.of(task.params, f"task '{task.id}'")

    def params(self) -> dict[str, Any]:
        """Return what stands in Tasks, as JSON values of which `of` makes the same settings."""
        return self.model_dump(mode="json", exclude_defaults=True)


def _is_plain(value: Any) -> bool:
    """Tell whether a Task can carry a value, to be written as JSON and read again."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
