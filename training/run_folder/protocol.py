"""Protocol: how a run measures itself, read from its folder, so that `turnrl eval RUN` measures the
same.

Only plain data is read: neither the classes that the recipe names nor its worlds are imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ...agents.baselines import BASELINES
from ...foundation.config import explain, keys_of
from ...foundation.errors import UserError
from ...foundation.manifest import unsealed
from ..recipe import EvaluateConfig, PoolConfig
from .folder import RunFolder

B = TypeVar("B", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Protocol:
    """The part of a recipe by which a run is evaluated."""

    env: str
    params: dict[str, Any]
    seed: int
    threads: int
    max_turns: int
    pool: PoolConfig
    evaluate: EvaluateConfig

    @classmethod
    def read(cls, folder: Path) -> Protocol:
        """Read the recipe of a run. Raises UserError if there is none or it is damaged.

        Args:
            folder: of the run, or of one of its checkpoints.
        """
        file = RunFolder.of(folder).recipe
        try:
            data = yaml.safe_load(unsealed(file.read_text("utf-8"), file))
        except (OSError, yaml.YAMLError, ValueError) as error:
            raise UserError(f"'{file}' is damaged: {' '.join(str(error).split())}") from None
        env = data.get("env") if isinstance(data, dict) else None
        if not isinstance(env, dict) or not isinstance(env.get("id"), str):
            raise UserError(f"'{file}' is damaged: it names no environment")
        agent = _part(data, "agent", file)
        numbers = {name: data.get(name) for name in ("seed", "threads")}
        numbers["max_turns"] = agent.get("max_turns")
        for name, value in numbers.items():
            if not isinstance(value, int) or value < (name != "seed"):
                raise UserError(f"'{file}' is damaged: {name} is {value!r}")
        return cls(
            env=env["id"],
            params={key: value for key, value in env.items() if key != "id"},
            **numbers,
            pool=_block(PoolConfig, data, "pool", file),
            evaluate=_block(EvaluateConfig, data, "evaluate", file),
        )

    def limit_of(self, agent: str) -> int | None:
        """Return the run's turn limit for those without one: a random or an expert player."""
        return self.max_turns if agent in BASELINES else None

    def pool_arguments(self) -> dict[str, Any]:
        """Return the arguments of the `EnvPool` that the run plays in."""
        return self.pool.model_dump(exclude={"imports"})

    def tasks(self, split: str) -> int | None:
        """Count the tasks of a split that the run plays; None for all, at most 100."""
        if split == "test" and self.evaluate.test_tasks:
            return self.evaluate.test_tasks
        return self.evaluate.tasks if split == self.evaluate.split else None


def _part(data: Mapping[str, Any], name: str, file: Path) -> Mapping[str, Any]:
    part = data.get(name)
    if not isinstance(part, dict):
        raise UserError(f"'{file}' is damaged: {name} is {part!r}")
    return part


def _block(model: type[B], data: Mapping[str, Any], name: str, file: Path) -> B:
    """Read a block. What is missing is not guessed: today's default may not be that of the run."""
    part = _part(data, name, file)
    if missing := [key for key in model.model_fields if key not in part]:
        raise UserError(f"'{file}' is damaged: {name}.{missing[0]} is missing")
    try:
        return model.model_validate(part)
    except ValidationError as error:
        raise UserError(explain(error, f"'{file}' is damaged: {name}", keys_of(model))) from None
