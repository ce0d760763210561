"""Stage: a part of a run, such as a warm start or reinforcement learning. The one hook is `run`::

    class Wait(Stage):
        name: Literal["wait"] = "wait"
        steps: int = Field(3, ge=1, description="records that are written")

        async def run(self, session, index, state=None):
            for step in range(1, self.steps + 1):
                session.record(self.label, step, "train", {})
            session.save(self.label, (index, self.steps))
            return self.steps

What a stage needs before it begins, it says in the other methods.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from ...agents.models.config import Bf16
from ...agents.models.devices import computes_bf16
from ...envs import Split
from ...foundation.plugins import Plugin, Slot
from ...rewards.base import TurnReward

if TYPE_CHECKING:
    from ..recipe import Recipe
    from ..run_folder.checkpoint import TrainerState
    from ..session import Session


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The numbers of a model that the memory of training depends on."""

    parameters: int
    width: int
    layers: int
    device: torch.device
    """Where it will be trained."""

    def mib(self, copies: int, token_budget: int, *, bf16: Bf16) -> int:
        """Compute roughly the MiB of memory that an update takes.

        Args:
            copies: of all weights, in float32: weights, gradients, moments, frozen copies.
            token_budget: tokens of a micro-batch.
        """
        # About 16 activations of model width per layer and token are kept for the backward pass.
        size = 2 if computes_bf16(bf16, self.device) else 4
        activations = token_budget * self.width * self.layers * 16 * size
        return round((copies * self.parameters * 4 + activations) / 2**20)


class Stage(Plugin):
    """Base of the slot ``training.stages``."""

    changeable: ClassVar[str] = ""
    """Regular expression of the keys that may change when a run goes on in the middle of it."""
    label: str = Field(
        default_factory=lambda data: str(data.get("name", "")),
        pattern=r"^[a-z][a-z0-9_]*$",
        description=(
            "name of the stage in metrics, checkpoints, episodes and overrides (default: its key);"
            " no two stages share one"
        ),
    )

    @property
    def length(self) -> int | None:
        """Count the stage's steps, None where that is not known before."""
        return None

    @property
    def uses_dropout(self) -> bool:
        """Tell whether the model's own dropout acts in the stage's updates."""
        return False

    @property
    def episodes_at_once(self) -> int:
        """Count the episodes that the stage plays at once, at most, in the pool of the run."""
        return 0

    @property
    def renamings_needed(self) -> int:
        """Count the renamings of the world that the stage plays under; 1 is the world as it is."""
        return 1

    def tasks_needed(self) -> Mapping[Split, int]:
        """Return how many tasks of each split the stage needs."""
        return {}

    def rewards_paid(self, rewards: Sequence[TurnReward]) -> Sequence[TurnReward]:
        """Return the rewards that the stage asks, of its own or the recipe's `rewards`."""
        return ()

    def asking(self, rewards: Sequence[TurnReward]) -> Sequence[Plugin]:
        """Return every plug-in of it that may need something, `rewards_paid` among them."""
        return self.rewards_paid(rewards)

    def objections(self, recipe: Recipe) -> Iterator[str]:
        """Yield why the recipe cannot run this stage, one sentence each."""
        yield from ()

    def plan(self, recipe: Recipe, size: ModelSize) -> dict[str, Any]:
        """Return what ``--dry-run`` says of the stage, such as ``episodes_per_step``."""
        return {}

    @abstractmethod
    async def run(self, session: Session, index: int, state: TrainerState | None = None) -> int:
        """Do the whole stage; the model and the engine then have the weights that it leaves behind.

        Args:
            session: the parts of the run.
            index: its place among the stages, for checkpoints.
            state: what it saved with ``session.save(LAST, ...)``, to go on from there.

        Returns:
            The steps that are done.
        """


STAGES: Slot[Stage] = Slot("turnrl.training.stages", Stage, "Stages")
