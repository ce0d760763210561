"""Recipe: the whole truth about a run, as data.

    recipe = Recipe.load("recipes/quickstart.yaml", ["rl.steps=20", "model.width=128"])
    turnrl.train(recipe)

Every block is a typed model whose fields carry their help; unknown keys are refused with the
nearest known one. Plug-ins are named by key: ``credit: {name: turn_return, gamma: 0.9}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ..agents.config import AgentConfig
from ..agents.engines.base import ENGINES, EngineConfig, Sampling
from ..agents.models.config import ModelConfig
from ..envs.pool.pool import EnvPool
from ..foundation.config import explain, keys_of
from ..foundation.errors import UserError
from ..foundation.plugins import Plugged, distinct
from ..rewards.base import REWARDS, TurnReward
from .objections import objections
from .overrides import override
from .paths import anchored, module_file
from .stages.base import Stage


class Config(BaseModel):
    """Base of the blocks."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PoolConfig(Config):
    """The `pool` block: where environments run."""

    backend: Literal["thread", "process"] = Field(
        "thread", description="where worlds run: in threads of this process, or in worker processes"
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="number of threads or processes (default: 16 threads, or one process per core)",
    )
    slots: int | None = Field(
        None,
        ge=1,
        description=(
            "worlds alive at once, at most; episodes wait for a free one (default: a whole step's)"
        ),
    )
    step_timeout: float = Field(
        30.0,
        gt=0,
        description=(
            "seconds after which a world that does not answer an action ends its episode as a"
            " failure"
        ),
    )
    reset_timeout: float = Field(
        120.0,
        gt=0,
        description="seconds after which a world that does not start ends its episode as a failure",
    )
    imports: tuple[str, ...] = Field(
        (),
        description=(
            "modules or .py files that register worlds of your own; a file is relative to the"
            " recipe"
        ),
    )

    def build(self, slots: int, extras: Iterable[str]) -> EnvPool:
        """Build a pool for so many episodes at once, or fewer if `slots` is.

        Its worlds tell these extras.
        """
        return EnvPool(
            backend=self.backend,
            workers=self.workers,
            slots=min(slots, self.slots or slots),
            step_timeout=self.step_timeout,
            reset_timeout=self.reset_timeout,
            options={"extras": tuple(map(str, extras))},
            imports=self.imports,
        )


class EvaluateConfig(Config):
    """The `evaluate` block: measured during the run on `split`, and at the end of each stage on the
    test split.
    """

    split: Literal["train", "valid", "test"] = Field(
        "valid", description="split that is played in the periodic evaluation"
    )
    tasks: int | None = Field(
        None, ge=1, description="tasks of the periodic evaluation, each once (default: at most 100)"
    )
    every: int = Field(
        0, ge=0, description="reinforcement learning steps between two evaluations; 0 for none"
    )
    test_tasks: int = Field(
        0, ge=0, description="test tasks played once after each stage; 0 for none"
    )
    temperature: float | None = Field(
        None,
        ge=0,
        description=(
            "sampling temperature of every evaluation; 0 is greedy, null is that of agent.sampling"
        ),
    )


TAKEN = ("best", "last", "train", "valid", "test")
"""Names of checkpoints and episodes that no stage can have."""


class Recipe(Config):
    """A run from the first token to the last table."""

    name: str = Field(
        description="name of the run and, under runs/, of its folder", pattern=r"^[\w.-]+$"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of everything that is random")
    threads: int = Field(
        1, ge=1, le=1024, description="threads that compute the model; reruns are bit-exact with 1"
    )
    env: dict[str, Any] = Field(
        description=(
            "the environment: its id and its parameters, e.g. {id: textworld/coin-v0, level: 5}"
        )
    )
    model: ModelConfig = Field(
        default_factory=ModelConfig, description="which model plays and learns"
    )
    engine: Plugged[EngineConfig] = Field(
        default_factory=lambda: ENGINES.build({"name": "torch"}),
        description=(
            "who generates its responses, by name and fields; the built-in one needs no name"
        ),
    )
    agent: AgentConfig = Field(default_factory=AgentConfig, description="how it plays")
    pool: PoolConfig = Field(default_factory=PoolConfig, description="where the worlds run")
    rewards: list[Plugged[TurnReward]] = Field(
        default_factory=lambda: [REWARDS.build({"name": "outcome"})],
        description="rewards of a turn, by name and fields; `weight` multiplies each in their sum",
    )
    stages: list[Plugged[Stage]] = Field(
        min_length=1, description="what is done, in order, by name and fields: sft, rl, or both"
    )
    evaluate: EvaluateConfig = Field(
        default_factory=EvaluateConfig, description="how success is measured"
    )

    @field_validator("engine", mode="before")
    @classmethod
    def _torch_needs_no_name(cls, value: Any) -> Any:
        return {"name": "torch", **value} if isinstance(value, Mapping) else value

    @field_validator("env")
    @classmethod
    def _has_id(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(value.get("id"), str):
            raise ValueError("needs an id, e.g. {id: textworld/coin-v0, level: 5}")
        return value

    @field_validator("rewards")
    @classmethod
    def _rewards_differ(cls, rewards: list[TurnReward]) -> list[TurnReward]:
        return distinct(rewards)

    @field_validator("stages")
    @classmethod
    def _labels_differ(cls, stages: list[Stage]) -> list[Stage]:
        labels = [stage.label for stage in stages]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(
                    f"'{label}' is listed twice: give each of these stages a label of its own, by"
                    " which metrics and checkpoints are kept"
                )
            if label in (*cls.model_fields, *TAKEN):
                raise ValueError(f"a stage cannot have the label '{label}': it means another thing")
        return stages

    @model_validator(mode="after")
    def _can_learn(self) -> Recipe:
        of_stages = (objection for stage in self.stages for objection in stage.objections(self))
        for objection in chain(of_stages, objections(self)):
            raise ValueError(objection)
        return self

    @property
    def evaluation(self) -> Sampling:
        """Return how responses are sampled in evaluation play."""
        temperature = self.evaluate.temperature
        return self.agent.sampling.model_copy(
            update={} if temperature is None else {"temperature": temperature}
        )

    @property
    def env_id(self) -> str:
        """Return the registered id of the environment."""
        return str(self.env["id"])

    @property
    def env_params(self) -> dict[str, Any]:
        """Return the parameters of the environment."""
        return {key: value for key, value in self.env.items() if key != "id"}

    @classmethod
    def of(cls, recipe: Recipe | str | Path | Mapping[str, Any]) -> Recipe:
        """Return a Recipe as it is, load one from a path, or parse plain data. Raises UserError."""
        if isinstance(recipe, Recipe):
            return recipe
        if isinstance(recipe, str | Path):
            return cls.load(recipe)
        return cls.parse(dict(recipe) if isinstance(recipe, Mapping) else recipe)

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read a YAML recipe and apply ``key=value`` overrides. Raises UserError."""
        if isinstance(overrides, str) or not all(isinstance(change, str) for change in overrides):
            raise UserError("the overrides of a recipe are a list of words such as ['rl.steps=20']")
        try:
            data = yaml.safe_load(Path(path).read_text("utf-8"))
        except OSError as error:
            raise UserError(f"cannot read the recipe '{path}': {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise UserError(
                f"'{path}' is not a recipe: it is not UTF-8 text (byte {error.start})"
            ) from None
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"'{path}' is not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(data, dict):
            return cls.parse(data, f"'{path}'")
        data = anchored(data, Path(path).absolute().parent)
        for change in overrides:
            override(data, change, cls.model_fields)
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: dict[str, Any], what: str = "recipe") -> Recipe:
        """Read a Recipe from plain data. Raises UserError with one sentence."""
        if not isinstance(data, dict):
            raise UserError(
                f"{what} is not a recipe: it must be a mapping with name, env and stages"
            )
        try:
            return cls.model_validate(anchored(data, Path.cwd()))
        except ValidationError as error:
            raise UserError(explain(error, what, keys_of(cls))) from None
        except UserError as error:  # of a plug-in
            raise type(error)(f"{what}: {error}") from error.__cause__

    def importing(self, *modules: str) -> Recipe:
        """Add modules or ``.py`` files to ``pool.imports`` of a copy of the recipe.

        They are relative to the working directory.
        """
        more = [module_file(name, Path.cwd()) for name in modules]
        imports = tuple(dict.fromkeys((*self.pool.imports, *more)))
        return self.model_copy(update={"pool": self.pool.model_copy(update={"imports": imports})})

    def dump(self) -> str:
        """Write the resolved recipe as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
