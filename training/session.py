"""Session: what every stage of a run shares: the recipe, the model, the agent, the worlds and the
log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..agents.agent import LanguageAgent
from ..agents.engines.base import Engine
from ..agents.episode import Episode
from ..agents.evaluate import choose_tasks, play_tasks
from ..agents.evaluation import Evaluation, summarise
from ..agents.saved_agent import SavedAgent
from ..envs import Task, TextEnv
from ..envs.pool.pool import EnvPool
from ..foundation.errors import UserError
from .clock import Clock
from .interrupt import Interrupts
from .patience import check_finite
from .recipe import Recipe
from .run_folder import checkpoint
from .run_folder.folder import BEST, LAST
from .run_folder.log import Record, RunLog


def _ignore(record: Record) -> None:
    """Do nothing with a record: nobody listens."""


@dataclass(slots=True)
class Session:
    """The parts of a run. `prototype` answers questions about tasks; `pool` plays them."""

    recipe: Recipe
    model: nn.Module
    tokenizer: Any
    engine: Engine
    agent: LanguageAgent
    prototype: TextEnv
    pool: EnvPool
    log: RunLog
    progress: bool = True
    on_record: Callable[[Record], None] = _ignore
    """Called with each line of the metrics."""
    interrupts: Interrupts = field(default_factory=Interrupts)
    clock: Clock = field(default_factory=Clock)
    changes: list[str] = field(default_factory=list)
    """How the recipe was changed on the way."""
    best: float = -1.0
    best_step: int = 0
    """See `TrainerState`."""
    where: str = "before the first stage"
    """How far it is, for whoever interrupts it."""
    tasks: dict[str, list[Task]] = field(default_factory=dict)

    def record(self, stage: str, step: int, kind: str, values: Record) -> None:
        """Write a line of the metrics, and tell whoever listens."""
        self.on_record(self.log.record(stage, step, kind, values))

    def seed_of(self, index: int) -> int:
        """Return the seed of a stage: the recipe's, but no two stages of one kind play alike."""
        kinds = [stage.name for stage in self.recipe.stages]
        return self.recipe.seed ^ (kinds[:index].count(kinds[index]) << 32)

    def choose(self, split: str, n: int | None) -> list[Task]:
        """Choose the first `n` tasks of a split (None: at most 100), with their files made."""
        key = f"{split}/{n}"
        if key not in self.tasks:
            chosen = choose_tasks(
                self.prototype.tasks(split), n, f"the {split} split of {self.recipe.env_id}"
            )
            self.prototype.prepare(chosen, progress=self.progress)
            self.tasks[key] = chosen
        return self.tasks[key]

    def renamings(self, count: int) -> tuple[Mapping[str, str], ...]:
        """List the first `count` symmetries of the world, as `known_renamings` has them."""
        return known_renamings(self.prototype, count)

    async def evaluate(
        self,
        split: str,
        n: int | None,
        label: str,
        agent: LanguageAgent | None = None,
        *,
        keep: int | None = None,
    ) -> Evaluation:
        """Play tasks of a split once each, at the evaluation temperature.

        The random streams are the same at every call.

        Args:
            split: train, valid or test.
            n: the first so many of its tasks; None for at most 100.
            label: name of the player, a stage's.
            agent: who plays; None is the recipe's agent.
            keep: write the episodes into the run's folder, as those of this step of `label`.
        """
        recipe, tasks = self.recipe, self.choose(split, n)
        sampling = recipe.evaluation
        player = (
            recipe.agent.build(self.engine, self.tokenizer, sampling=sampling)
            if agent is None
            else agent
        )
        episodes, stats = await play_tasks(
            player,
            tasks,
            self.pool,
            max_turns=recipe.agent.max_turns,
            seed=recipe.seed,
            concurrency=64,
            label=f"eval-{split}",
            progress=self.progress,
        )
        if keep is not None:
            self.log.episodes(f"{split}-{label}", keep, episodes)
        return summarise(
            episodes,
            stats,
            env=recipe.env_id,
            agent=label,
            split=split,
            seed=recipe.seed,
            temperature=sampling.temperature,
            max_turns=recipe.agent.max_turns,
            max_context=self.engine.max_context,
            split_size=len(self.prototype.tasks(split)),
        )

    def saved_agent(self) -> SavedAgent:
        """Describe the agent as it is written beside the weights.

        An evaluation of them alone is then that of this run.
        """
        recipe = self.recipe
        return SavedAgent.of(
            recipe.agent,
            max_context=recipe.model.max_context,
            dtype=recipe.model.dtype,
            temperature=recipe.evaluate.temperature,
            max_batch=recipe.engine.max_batch,
        )

    def save(
        self, name: str, progress: tuple[int, int], parts: dict[str, Any] | None = None
    ) -> None:
        """Write a checkpoint. Raises RunFailed, and writes nothing, if a weight is not finite.

        Args:
            name: the label of the stage, or `BEST` or `LAST` of `run_folder.folder`.
            progress: index of the stage, and how many of its steps are done.
            parts: what makes a resume from it exact, if one can begin there; see `TrainerState`.
        """
        check_finite(self.model, f"when '{name}' is to be saved")
        rank = (progress[0], {BEST: 2, LAST: 0}.get(name, 1))
        about: dict[str, Any] = {"progress": progress, "rank": rank}
        state = None
        if parts is not None:
            about["metrics"] = self.log.mark()
            state = checkpoint.TrainerState(
                *progress,
                parts,
                self.best,
                self.best_step,
                self.recipe.model_dump(mode="json"),
                self.changes,
                self.clock.read(),
            )
        checkpoint.write(
            self.log.folder.checkpoint(name),
            self.model,
            self.tokenizer,
            self.saved_agent(),
            state,
            **about,
        )

    def write_episodes(self, stage: str, step: int, episodes: Sequence[Episode], most: int) -> None:
        """Write up to `most` episodes, evenly spread over the given ones."""
        if most and episodes:
            stride = max(len(episodes) // most, 1)
            self.log.episodes(stage, step, episodes[::stride][:most])


def known_renamings(prototype: TextEnv, count: int) -> tuple[Mapping[str, str], ...]:
    """List the first `count` symmetries of a world; the first leaves it alone.

    Raises UserError for more than it has.
    """
    known: tuple[Mapping[str, str], ...] = ({}, *prototype.symmetries)
    if count > len(known):
        raise UserError(
            f"symmetries={count}, but {prototype.id} knows {len(known)}, itself included"
        )
    return known[:count]
