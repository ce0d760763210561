"""Stage ``sft``: a supervised warm start on the expert's episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ...agents.models.config import Bf16
from ...agents.tagger.base import KINDS, PARSER, Tagger, speaks
from ...envs import Split
from ...foundation.plugins import Plugged
from ..learner.optim import OptimConfig
from ..patience import enough_memory
from ..supervised import SupervisedTrainer
from .base import ModelSize, Stage

if TYPE_CHECKING:
    from ..recipe import Recipe
    from ..run_folder.checkpoint import TrainerState
    from ..session import Session


class Sft(Stage):
    """Imitates the world's expert in a few episodes, until the validation loss stops falling.

    Only the tokens that an agent would have written carry loss, unless `observation_weight` says
    otherwise: a model that starts from nothing learns the world's language from observations too.

    Edge cases: an expert that never wins, or a tagger that fails at every episode, ends the run
    with one sentence; demonstrations that do not fit the context end where it does.

    Source: standard in the field.
    """

    changeable: ClassVar[str] = r"epochs|token_budget|checkpoint_every|optim\..+"
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
    bf16: Bf16 = Field(
        "auto",
        description=(
            "compute updates in bfloat16, over float32 weights; auto is on GPUs that have it"
        ),
    )
    checkpoint_every: int = Field(
        25, ge=1, description="updates between checkpoints to resume from"
    )
    dropout: bool = Field(
        False,
        description="the model's own dropout, of its config and of LoRA, is active in the updates",
    )

    @property
    def uses_dropout(self) -> bool:
        """Tell whether dropout acts: the field `dropout`."""
        return self.dropout

    @property
    def renamings_needed(self) -> int:
        """Return how many renamings demonstrations are shown under: `symmetries`."""
        return self.symmetries

    def tasks_needed(self) -> Mapping[Split, int]:
        """Return how many tasks are demonstrated, and how many are validated on."""
        return {"train": self.demonstrations, "valid": self.validation}

    def objections(self, recipe: Recipe) -> Iterator[str]:
        """Yield that the parser does not know the tags that the tagger writes."""
        if self.tagger is not None and not speaks(recipe.agent.parser):
            yield (
                f"{self.label}: tagger '{self.tagger.name}' needs a parser that knows the tags"
                f" {', '.join(KINDS)}; set {PARSER}"
            )

    def plan(self, recipe: Recipe, size: ModelSize) -> dict[str, Any]:
        """Return the size of an update."""
        copies = 4  # weights, gradients and AdamW's two moments
        memory = size.mib(copies, self.token_budget, bf16=self.bf16)
        return {"episodes_per_step": self.batch, "memory_mib": memory}

    async def run(self, session: Session, index: int, state: TrainerState | None = None) -> int:
        """Train until the validation loss stops falling; returns the number of updates."""
        settings = f"{self.label}.token_budget (tokens of a micro-batch) or the size of the model"
        with enough_memory("the warm start", settings):
            return await SupervisedTrainer(session, self, index).run(state)
