"""Stage ``rl``: reinforcement learning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from ...envs import Split
from ...foundation.plugins import Need, Plugged, Plugin, distinct
from ...rewards.base import TurnReward
from ..auxiliary.base import Auxiliary
from ..controllers.base import Controller
from ..credit.base import CREDITS, Credit
from ..curriculum.base import CURRICULA, Curriculum
from ..diagnostics.base import Diagnostic
from ..interrupt import Asked
from ..learner.config import LearnerConfig
from ..modifiers.base import Modifier
from ..objections import reinforcement
from ..patience import Patience
from ..run_folder import checkpoint
from ..run_folder.folder import BEST, LAST
from ..selection.base import Selection
from ..walk import Trainer
from .base import ModelSize, Stage

if TYPE_CHECKING:
    from ..recipe import Recipe
    from ..run_folder.checkpoint import TrainerState
    from ..session import Session


class Rl(Stage, LearnerConfig):
    """Plays, pays, assigns credit and updates, step after step; `Trainer.step` is one step.

    The policy is evaluated every ``evaluate.every`` steps, and the checkpoint ``best`` is the
    latest of those that did best. The stage leaves behind the best weights that were seen, or the
    last ones where nothing was evaluated. A recipe may have several such stages, with rewards of
    their own: each begins with the weights, and compares with the reference, that the one before
    it left behind.

    Edge cases: see ``give_up_after`` for a stage that learns nothing.

    Source: standard in the field.
    """

    changeable: ClassVar[str] = (
        r"steps|concurrency|token_budget|checkpoint_every|save_episodes|episodes_every"
        r"|optim\..+|critic\.lr"
    )
    name: Literal["rl"] = "rl"
    rewards: list[Plugged[TurnReward]] | None = Field(
        None, description="rewards of this stage, in place of the recipe's (default: those)"
    )
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
    auxiliary: list[Plugged[Auxiliary]] = Field(
        [], description="further batches that each update learns from, beside what was played"
    )
    controllers: list[Plugged[Controller]] = Field(
        [], description="who steers the updates by what was measured, in order"
    )
    diagnostics: list[Plugged[Diagnostic]] = Field(
        [], description="further numbers that are measured of each step, and change nothing"
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

    @field_validator("rewards")
    @classmethod
    def _rewards_differ(cls, rewards: list[TurnReward] | None) -> list[TurnReward] | None:
        return None if rewards is None else distinct(rewards)

    @field_validator("auxiliary", "controllers", "diagnostics")
    @classmethod
    def _companions_differ(cls, plugins: list[Any]) -> list[Any]:
        return distinct(plugins)

    @property
    def length(self) -> int:
        """Return the number of steps."""
        return self.steps

    @property
    def episodes_at_once(self) -> int:
        """Return how many episodes are played at once: `concurrency`."""
        return self.concurrency

    @property
    def renamings_needed(self) -> int:
        """Return how many renamings the groups take turns with: `symmetries`."""
        return self.symmetries

    @property
    def companions(self) -> Sequence[Plugin]:
        """List who acts beside the walk: auxiliaries, controllers, diagnostics."""
        return [*self.auxiliary, *self.controllers, *self.diagnostics]

    def tasks_needed(self) -> Mapping[Split, int]:
        """Return how many training tasks are drawn from, if the recipe says so."""
        return {"train": self.tasks or 0}

    def rewards_paid(self, rewards: Sequence[TurnReward]) -> Sequence[TurnReward]:
        """Return the stage's own rewards, or the recipe's if it has none."""
        return rewards if self.rewards is None else self.rewards

    def asking(self, rewards: Sequence[TurnReward]) -> Sequence[Plugin]:
        """Return all that a step is made of."""
        judging = [*self.rewards_paid(rewards), self.credit, *self.modifiers]
        choosing = [self.curriculum, *self.selection]
        return [*judging, *choosing, self.loss, *self.regularizers, *self.companions]

    def objections(self, recipe: Recipe) -> Iterator[str]:
        """Yield why nothing would be learnt, or something else than was played."""
        return reinforcement(self, recipe)

    def plan(self, recipe: Recipe, size: ModelSize) -> dict[str, Any]:
        """Return the size of a step and of an update."""
        episodes = self.tasks_per_step * self.group_size
        asking = self.asking(recipe.rewards)
        needs = frozenset[Need]().union(*(plugin.needs() for plugin in asking))
        copies = 4  # weights, gradients and AdamW's two moments
        copies += 4 * (Need.VALUES in needs and self.critic.backbone == "separate")
        # Where only adapters are trained, the copies are of adapters.
        whole = recipe.model.lora is None
        if Need.REF_LOGPROBS in needs and (whole or self.reference.kind == "checkpoint"):
            copies += 1 + (self.reference.kind == "soup")
        held = Need.REF_LOGPROBS in needs and self.reference.kind in ("start", "soup")
        copies += whole and not held and Need.INITIAL_WEIGHTS in needs
        return {
            "episodes_per_step": episodes,
            "response_tokens_per_step_at_most": episodes
            * recipe.agent.max_turns
            * recipe.agent.sampling.max_tokens,
            "memory_mib": size.mib(copies, self.token_budget, bf16=self.bf16),
        }

    async def run(self, session: Session, index: int, state: TrainerState | None = None) -> int:
        """Play and learn for `steps` steps; the model then has the best weights, else the last."""
        trainer = Trainer(session, self, index)
        done, evaluated = 0, True
        if state is not None:
            await trainer.restore(state)
            done, evaluated = state.step, bool(state.parts["evaluated"])
        else:
            # Nothing new to an engine but the probe: what it begins with is to be the model, too.
            await trainer.publisher.push(trainer.learner.weights(), 0)
            session.best, session.best_step = -1.0, 0
            session.save(LAST, (index, 0), trainer.state(evaluated=True))
        patience = Patience(self.label, self.give_up_after, self.steps)
        while done < self.steps or not evaluated:
            memory: dict[str, Any] | None = trainer.memory()
            try:
                session.interrupts.check()
                if evaluated:
                    metrics = await session.interrupts.cancel_for(trainer.step(done))
                    done, memory = done + 1, None
                    session.record(self.label, done, "train", metrics)
                    patience.after(done, trainer.cause)
                    evaluated = not trainer.due(done - 1, session.recipe.evaluate.every)
                if not evaluated:
                    await self._evaluate(session, trainer, done)
                    evaluated = True
            except Asked:
                session.where = f"at {self.label} step {done}"
                session.save(LAST, (index, done), trainer.state(memory, evaluated=evaluated))
                raise
            if trainer.due(done - 1, self.checkpoint_every):
                session.save(LAST, (index, done), trainer.state(evaluated=True))
        async with trainer.averaged(done):
            session.save(self.label, (index, done))
        kept = BEST if session.best_step else self.label
        checkpoint.restore(session.log.folder.checkpoint(kept), session.model)
        await trainer.publisher.push(session.model.state_dict(), done + 1)
        return done

    async def _evaluate(self, session: Session, trainer: Trainer, step: int) -> None:
        """Play the evaluation's tasks; the checkpoint 'best' is the latest of those that did best.

        An evaluation that lost more than a share of its episodes (`Evaluation.whole`) is logged and
        decides nothing.
        """
        settings = session.recipe.evaluate
        async with trainer.averaged(step):
            play = session.evaluate(settings.split, settings.tasks, self.label)
            result = await session.interrupts.cancel_for(play)
            session.record(self.label, step, "eval", result.record())
            if result.whole and result.success is not None and result.success >= session.best:
                session.best, session.best_step = result.success, step
                session.save(BEST, (trainer.index, step))
