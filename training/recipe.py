"""Recipe: the whole truth about a run, as data.

    recipe = Recipe.load("recipes/quickstart.yaml", ["rl.steps=20", "model.width=128"])
    turnrl.train(recipe)

Every block is a typed model whose fields carry their help; unknown keys are refused with the
nearest known one. Plug-ins are named by key: ``credit: {name: turn_return, gamma: 0.9}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..agents.config import AgentConfig
from ..agents.engines.base import ENGINES, EngineConfig, Sampling
from ..agents.models.config import ModelConfig
from ..agents.tagger.base import KINDS, PARSER, Tagger, speaks
from ..envs.pool.pool import EnvPool
from ..foundation.config import explain, keys_of
from ..foundation.errors import UserError
from ..foundation.plugins import Plugged
from ..rewards.base import REWARDS, TurnReward
from .credit.base import CREDITS, Credit
from .curriculum.base import CURRICULA, Curriculum
from .learner.config import LearnerConfig
from .learner.optim import OptimConfig
from .modifiers.base import Modifier
from .objections import objections
from .overrides import override, stages_of
from .paths import anchored, module_file
from .selection.base import Selection


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
        """A pool for so many episodes at once, or fewer if `slots` is, whose worlds tell these
        extras.
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


class SftStage(Config):
    """Supervised warm start on expert episodes; observation tokens carry no loss unless asked for."""

    name: Literal["sft"] = "sft"
    demonstrations: int = Field(
        10, ge=1, description="number of expert episodes to learn from, one per training task"
    )
    noise: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=(
            "share of random actions in the demonstrations, which are seen but not learnt from"
        ),
    )
    symmetries: int = Field(
        1,
        ge=1,
        description=(
            "number of renamings of the world under which demonstrations are shown; 1 is none"
        ),
    )
    views: int | None = Field(
        None,
        ge=1,
        description=(
            "number of those renamings that each demonstration is shown under, in turns (default:"
            " all)"
        ),
    )
    tagger: Plugged[Tagger] | None = Field(
        None,
        description=(
            "who writes a kind of reasoning and a thought before each demonstrated action (default:"
            " nobody)"
        ),
    )
    epochs: int = Field(3, ge=1, description="passes over the demonstrations, at most")
    batch: int = Field(16, ge=1, description="demonstrations per update")
    observation_weight: float = Field(
        0.0,
        ge=0,
        description="loss weight of observation tokens, each when it is new, beside 1 for actions",
    )
    optim: OptimConfig = Field(
        default_factory=lambda: OptimConfig(lr=1e-3), description="optimiser of this stage"
    )
    validate_every: int = Field(
        5, ge=1, description="updates between two measurements of the validation loss"
    )
    validation: int = Field(
        10,
        ge=1,
        description="number of validation tasks whose expert episodes give the validation loss",
    )
    patience: int = Field(
        3,
        ge=1,
        description=(
            "measurements in a row without a better validation loss after which the stage stops"
        ),
    )
    until_loss: float | None = Field(
        None, gt=0, description="validation loss (nats per action token) at which the stage stops"
    )
    token_budget: int = Field(
        4096, ge=1, description="tokens of a micro-batch, padding included, at most"
    )
    bf16: bool = Field(False, description="compute updates in bfloat16, over float32 weights")
    checkpoint_every: int = Field(
        25, ge=1, description="updates between checkpoints to resume from"
    )
    dropout: bool = Field(
        False,
        description="the model's own dropout, of its config and of LoRA, is active in the updates",
    )


class RlStage(LearnerConfig):
    """Reinforcement learning: play, reward, credit, update."""

    name: Literal["rl"] = "rl"
    tasks: int | None = Field(
        None, ge=1, description="number of training tasks to draw from (default: all, at most 100)"
    )
    tasks_per_step: int = Field(8, ge=1, description="tasks, and so groups of episodes, per step")
    group_size: int = Field(
        8, ge=1, description="episodes of each task in a step: the group that is compared"
    )
    concurrency: int = Field(64, ge=1, description="episodes played at once")
    symmetries: int = Field(
        1,
        ge=1,
        description=(
            "number of renamings of the world that the episodes of a group take turns with; 1 is"
            " none"
        ),
    )
    credit: Plugged[Credit] = Field(
        default_factory=lambda: CREDITS.build({"name": "grpo"}),
        description="estimator of advantages, by name and fields",
    )
    modifiers: list[Plugged[Modifier]] = Field(
        [], description="changes of the advantages after the estimator, in order"
    )
    curriculum: Plugged[Curriculum] = Field(
        default_factory=lambda: CURRICULA.build({"name": "uniform"}),
        description="who chooses the tasks of a step, by name and fields",
    )
    selection: list[Plugged[Selection]] = Field(
        [], description="filters that decide which groups are learnt from, one after the other"
    )
    merge: bool = Field(True, description="train turns that extend each other as one sequence")
    save_episodes: int = Field(
        16, ge=0, description="episodes that are kept of a step whose episodes are kept"
    )
    episodes_every: int = Field(10, ge=1, description="steps between those whose episodes are kept")
    checkpoint_every: int = Field(
        10, ge=1, description="steps between two checkpoints that a run can be resumed from"
    )
    give_up_after: int = Field(
        3,
        ge=1,
        description=(
            "steps in a row without anything to learn from (every episode lost, no finite gradient)"
            " that end the run"
        ),
    )


Stage = Annotated[SftStage | RlStage, Field(discriminator="name")]


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
        description="who generates its responses, by name and fields; the built-in one needs no name",
    )
    agent: AgentConfig = Field(default_factory=AgentConfig, description="how it plays")
    pool: PoolConfig = Field(default_factory=PoolConfig, description="where the worlds run")
    rewards: list[Plugged[TurnReward]] = Field(
        default_factory=lambda: [REWARDS.build({"name": "outcome"})],
        description="rewards of a turn, by name and fields; `weight` multiplies each in their sum",
    )
    stages: list[Stage] = Field(
        min_length=1, description="what is done, in order: sft, rl, or both"
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

    @model_validator(mode="after")
    def _rewards_differ(self) -> Recipe:
        names = [reward.name for reward in self.rewards]
        if len(set(names)) != len(names):
            raise ValueError("a reward is listed twice")
        return self

    @model_validator(mode="after")
    def _stages_differ(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(
                "a stage is listed twice: metrics and checkpoints are kept by the name of the stage"
            )
        return self

    @model_validator(mode="after")
    def _tags_are_read(self) -> Recipe:
        for stage in self.stages:
            tagger = stage.tagger if isinstance(stage, SftStage) else None
            if tagger is not None and not speaks(self.agent.parser):
                kinds = ", ".join(KINDS)
                raise ValueError(
                    f"sft: tagger '{tagger.name}' needs a parser that knows the tags {kinds}; set"
                    f" {PARSER}"
                )
        return self

    @model_validator(mode="after")
    def _can_learn(self) -> Recipe:
        for objection in objections(self):
            raise ValueError(objection)
        return self

    @property
    def evaluation(self) -> Sampling:
        """How responses are sampled in evaluation play."""
        temperature = self.evaluate.temperature
        return self.agent.sampling.model_copy(
            update={} if temperature is None else {"temperature": temperature}
        )

    @property
    def env_id(self) -> str:
        """Registered id of the environment."""
        return str(self.env["id"])

    @property
    def env_params(self) -> dict[str, Any]:
        """Parameters of the environment."""
        return {key: value for key, value in self.env.items() if key != "id"}

    @classmethod
    def of(cls, recipe: Recipe | str | Path | Mapping[str, Any]) -> Recipe:
        """Return a Recipe as it is, load the one at a path, or parse plain data. Raises UserError."""
        if isinstance(recipe, Recipe):
            return recipe
        if isinstance(recipe, str | Path):
            return cls.load(recipe)
        return cls.parse(dict(recipe) if isinstance(recipe, Mapping) else recipe)

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read a YAML recipe and apply ``key=value`` overrides. Raises UserError with one sentence."""
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
        """A Recipe from plain data. Raises UserError with one sentence."""
        if not isinstance(data, dict):
            raise UserError(
                f"{what} is not a recipe: it must be a mapping with name, env and stages"
            )
        try:
            return cls.model_validate(anchored(data, Path.cwd()))
        except ValidationError as error:
            raise UserError(explain(error, what, _known_keys(data))) from None

    def importing(self, *modules: str) -> Recipe:
        """The recipe with more modules or ``.py`` files, relative to the working directory, in
        ``pool.imports``.
        """
        more = [module_file(name, Path.cwd()) for name in modules]
        imports = tuple(dict.fromkeys((*self.pool.imports, *more)))
        return self.model_copy(update={"pool": self.pool.model_copy(update={"imports": imports})})

    def dump(self) -> str:
        """The resolved recipe as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def _known_keys(data: dict[str, Any]) -> dict[str, list[str]]:
    known = keys_of(Recipe)
    for i, stage in enumerate(stages_of(data)):
        kinds: dict[str, type[BaseModel]] = {"sft": SftStage, "rl": RlStage}
        for key, model in kinds.items():
            if stage.get("name") == key:
                known |= keys_of(model, f"stages.{i}.{key}")
    return known
