"""The walk: a Task becomes an Episode becomes a number on each token. Read `Trainer.step` from top
to bottom.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..agents.agent import stream_seed
from ..agents.episode import Group, episodes_of
from ..agents.evaluation import MOST_FAILED
from ..agents.models.devices import random_state, restore_random_state
from ..envs import Task
from ..foundation.aio import await_to_the_end
from ..foundation.plugins import Need
from . import boundaries
from .batch import TokenBatch, map_groups
from .companions import Companions
from .credit.base import Advantages
from .learner.local import Learner
from .patience import enough_memory
from .publisher import Publisher
from .reward_table import RewardTable, measured, reward_all
from .run_folder.checkpoint import TrainerState
from .run_folder.log import Record
from .session import Session
from .source.base import Played, Source
from .source.gather import Gathering
from .source.lock_step import LockStep
from .view import StepView

if TYPE_CHECKING:
    from .stages.rl import Rl

LOWER = (
    "{0}.token_budget (tokens of a micro-batch), {0}.tasks_per_step, {0}.group_size or the size of"
    " the model"
)


class Trainer:
    """One rl stage.

    Args:
        session: the parts of the run.
        stage: its configuration.
        index: its place among the stages, for checkpoints.
    """

    def __init__(self, session: Session, stage: Rl, index: int) -> None:
        self.session, self.stage, self.index = session, stage, index
        self.seed = session.seed_of(index)
        self.credit = stage.credit.begin()
        self.rewards = [reward.begin() for reward in stage.rewards_paid(session.recipe.rewards)]
        self.modifiers = [modifier.begin() for modifier in stage.modifiers]
        self.selection = [selection.begin() for selection in stage.selection]
        self.weights = {reward.name: reward.weight for reward in self.rewards}
        curriculum = stage.curriculum.begin()
        self.companions = Companions(stage, session.pool.faults)
        others = [*self.rewards, *self.modifiers, curriculum, *self.selection]
        others += self.companions.plugins
        self.needs = frozenset().union(*(plugin.needs() for plugin in (self.credit, *others)))
        if not session.engine.full_precision:
            # Its arithmetic is not the learner's: its log-probabilities are of another policy.
            self.needs |= {Need.OLD_LOGPROBS}
        agent = session.recipe.agent
        self.source: Source = LockStep(
            session.agent,
            session.pool,
            curriculum,
            session.choose("train", stage.tasks),
            session.renamings(stage.symmetries),
            group_size=stage.group_size,
            concurrency=stage.concurrency,
            steps=stage.steps,
            max_turns=agent.max_turns,
            seed=self.seed,
            ask_expert=Need.EXPERT in self.needs,
            keep=Need.SCORER in self.needs,
        )
        longest = agent.max_turns * agent.sampling.max_tokens
        self.learner = Learner(
            stage,
            session.model,
            longest=longest,
            needs=self.needs,
            companions=self.companions.auxiliaries,
        )
        self.plugins = [self.credit, *self.learner.objectives, *others]
        self.publisher = Publisher(session.engine, session.model)
        self.seconds: dict[str, float] = {}
        self.measured = 0
        """See `Gathering.measured`, of this step."""
        self.cause = ""
        """Why the last step taught nothing; empty if it did, or if filters dropped what was played.
        """

    # -- the walk ----------------------------------------------------------------------------------

    async def step(self, number: int) -> Record:
        """Play a batch of episodes and learn from it; returns the metrics."""
        stage, what = self.stage, f"step {number + 1}"
        self.seconds, self.measured = {}, 0
        before = self.session.pool.faults.counts.copy()
        kept = Gathering(self.selection, self.weights, stage.tasks_per_step, self.again)
        while kept.missing:
            with self._clock("play"):
                played = await self.source.next(number, kept.missing)
            await kept.take(*await self.rewarded(played))
        groups, metrics, self.measured = kept.groups, kept.metrics, kept.measured
        self.cause = self.why_nothing(before)
        if not groups:
            return metrics | {"skipped": 1.0}
        self.warn_of_survivors(number + 1, metrics)
        with self._clock("score"), enough_memory(what, LOWER.format(stage.label)):
            batch = self.batch(groups)
        with self._clock("credit"):
            table = self.table(groups, batch)
            advantages = self.advantages(table, batch)
            annotate(groups, batch, advantages)
        if not bool(torch.isfinite(advantages.values).all()):
            self.cause = (
                f"credit '{self.credit.name}' and its modifiers gave advantages that are not finite"
            )
            return metrics | {"skipped": 1.0} | self.timing()
        metrics = await self.learn(self.view(number, groups, batch, table, advantages, metrics))
        for reward in self.rewards:
            metrics |= boundaries.learnt(reward, groups)
        if self.due(number, stage.episodes_every):
            episodes = episodes_of(groups)
            self.session.write_episodes(stage.label, number + 1, episodes, stage.save_episodes)
        return metrics | self.timing()

    async def learn(self, view: StepView) -> Record:
        """Make an update, push the policy's weights, and return all metrics of the step."""
        what = f"step {view.step + 1}"
        works = await self.companions.works(view)
        with self._clock("update"), enough_memory(what, LOWER.format(self.stage.label)):
            factors = self.companions.steer(view, self.learner, updated=False)
            works = [self.learner.work(view.batch, view.advantages), *works]
            report = self.learner.update(works, view.step, self.seed)
            if report.get("gradients/lost") == 1:
                self.cause = "no gradient was finite, so no optimiser step was taken"
            view = replace(view, metrics={**view.metrics, **report, **factors})
            self.companions.steer(view, self.learner, updated=True)
            # An update that is made counts: a signal is heard when the step is done.
            await await_to_the_end(self.publisher.push(self.learner.weights(), view.step + 1))
        return {**view.metrics, **self.companions.diagnose(view, partial(self.due, view.step))}

    async def rewarded(self, played: Played) -> tuple[list[Group], dict[str, float]]:
        """Pay what was played, and leave out what could not be measured."""
        session = self.session
        with self._clock("reward"), played.conversations:
            table = await reward_all(
                self.rewards, played.groups, session.agent, session.pool.faults
            )
        groups, unmeasured = measured(played.groups, table)
        lost = {f"lost/reward_{name}": float(count) for name, count in unmeasured.items()}
        return groups, played.metrics | lost

    async def again(
        self, tasks: Sequence[Task], hints: Sequence[str]
    ) -> tuple[list[Group], dict[str, float]]:
        """Play tasks once more in the step at hand, and reward what was played."""
        with self._clock("play"):
            played = await self.source.play(tasks, hints)
        return await self.rewarded(played)

    def batch(self, groups: Sequence[Group]) -> TokenBatch:
        """Pack groups as tensors, with the costly fields that some plug-in asked for."""
        cut = self.credit.bootstraps() if self.learner.critic is not None else frozenset()
        batch = TokenBatch.pack(
            groups,
            merge=self.stage.merge,
            closing=cut,
            temperature=self.session.recipe.agent.sampling.temperature,
            version=self.session.engine.version,
            device=self.learner.device,
        )
        return self.learner.measured(batch, cut)

    def view(
        self,
        number: int,
        groups: Sequence[Group],
        batch: TokenBatch,
        table: RewardTable,
        advantages: Advantages,
        metrics: Record,
    ) -> StepView:
        """Show a step before its update to those beside the walk."""
        return StepView(
            step=number,
            seed=stream_seed(self.seed, self.stage.label, number),
            groups=groups,
            batch=batch,
            rewards=table,
            advantages=advantages,
            metrics=metrics | self.describe(batch, table, advantages),
            model=self.learner.model,
            initial=self.learner.initial,
            agent=self.session.agent,
        )

    def table(self, groups: Sequence[Group], batch: TokenBatch) -> RewardTable:
        """Collect the recipe's rewards, and those of regularizers that act on rewards."""
        table = RewardTable.of(groups, self.weights, batch.device)
        for term in self.learner.regularizers:
            reward_BL = boundaries.reward_of(term, batch)
            if reward_BL is not None:
                weight = term.coefficient * self.learner.factors[term.name]
                table = table.with_reward(term.name, batch.per_turn(reward_BL), weight)
        return table

    def advantages(self, table: RewardTable, batch: TokenBatch) -> Advantages:
        """Ask the credit, then the modifiers in order; per token."""
        advantages = boundaries.advantages_of(self.credit, table, batch)
        for modifier in self.modifiers:
            advantages = boundaries.modified(modifier, advantages, batch)
        return advantages

    # -- beside the walk ---------------------------------------------------------------------------

    def warn_of_survivors(self, step: int, metrics: Record) -> None:
        """Say once that many episodes are missing, if they are.

        Those that are left are survivors, and fewer of them are long than should be.
        """
        failed = sum(value for key, value in metrics.items() if key.startswith("lost/"))
        unmeasured = sum(value for key, value in metrics.items() if key.startswith("lost/reward_"))
        played = metrics["episodes"] + failed - unmeasured
        if failed > MOST_FAILED * played:
            what = (
                f"{failed:.0f} of {played:.0f} episodes of step {step} failed or could not be"
                " measured"
            )
            why = (
                "what is learnt from are the survivors, and long episodes are among them less often"
                " than they should be"
            )
            self.session.pool.faults.note("survivors", f"{what}: {why}")

    def why_nothing(self, before: Counter[str]) -> str:
        """Say why no episode of the step can be learnt from; empty if some can."""
        if self.measured:
            return ""
        lost = self.session.pool.faults.since(before)
        return (
            f"no episode could be learnt from ({lost})"
            if lost
            else "no response was sampled in any episode"
        )

    def due(self, number: int, every: int) -> bool:
        """Tell whether it is time for what comes every so many steps.

        It comes at the first and at the last step too, and never for `every` 0.
        """
        return every > 0 and (
            number == 0 or (number + 1) % every == 0 or number + 1 == self.stage.steps
        )

    @asynccontextmanager
    async def averaged(self, done: int) -> AsyncIterator[None]:
        """Give the model and the engine the averaged weights inside the block.

        Those are evaluated and saved.
        """
        with self.learner.averaged():
            await self.publisher.push(self.learner.weights(), done)
            yield
        await self.publisher.push(self.learner.weights(), done)

    def describe(
        self, batch: TokenBatch, table: RewardTable, advantages: Advantages
    ) -> dict[str, float]:
        """Compute metrics of rewards and advantages."""
        return_E = table.total_E
        components = {
            f"reward/{name}": float(sums_E.mean())
            for name, sums_E in zip(table.names, table.sums_KE, strict=True)
        }
        flat = advantages.values[batch.mask_BL].double()
        flat_groups: list[bool] = []
        map_groups(
            batch.group_E,
            lambda index: flat_groups.append(bool(return_E[index].std(correction=0) <= 1e-8)),
        )
        return components | {
            "return": float(return_E.mean()),
            "return/std": float(return_E.std(correction=0)),
            "advantage/mean": float(flat.mean()) if len(flat) else 0.0,
            "advantage/std": float(flat.std(correction=0)) if len(flat) else 0.0,
            "advantage/max": float(flat.abs().max()) if len(flat) else 0.0,
            "zero_variance_groups": sum(flat_groups) / max(len(flat_groups), 1),
            "sequences": float(len(batch.lengths_B)),
            "tokens/trained": float(batch.mask_BL.sum()),
        }

    def memory(self) -> dict[str, Any]:
        """Copy what playing a step changes: plug-ins, tasks drawn, random streams."""
        return {
            "drawn": self.source.drawn,
            "plugins": [boundaries.memory_of(plugin) for plugin in self.plugins],
            "rng": torch.get_rng_state(),
            "device_rng": random_state(self.learner.device),
        }

    def state(self, memory: dict[str, Any] | None = None, *, evaluated: bool) -> dict[str, Any]:
        """Collect what a resume needs beside the weights: the parts of a `TrainerState`.

        Args:
            memory: as it was before a step that was not finished; default as it is now.
            evaluated: whether the evaluation that is due at this step was made.
        """
        return {
            **self.learner.state_dict(),
            "memory": memory or self.memory(),
            "evaluated": evaluated,
        }

    async def restore(self, state: TrainerState) -> None:
        """Go on from the state that `state` returned."""
        self.learner.load_state_dict(state.parts)
        memory = state.parts["memory"]
        self.source.drawn = memory["drawn"]
        for plugin, saved in zip(self.plugins, memory["plugins"], strict=True):
            plugin.load_state_dict(saved)
        await self.publisher.push(self.learner.weights(), state.step)
        torch.set_rng_state(memory["rng"])
        restore_random_state(memory["device_rng"], self.learner.device)

    def timing(self) -> dict[str, float]:
        """Return the seconds by phase."""
        return {f"seconds/{name}": value for name, value in self.seconds.items()}

    @contextmanager
    def _clock(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started


def annotate(groups: Sequence[Group], batch: TokenBatch, advantages: Advantages) -> None:
    """Write each turn's mean advantage into the turn, for reports."""
    sums = batch.per_turn(advantages.values).tolist()
    for episode, row in zip(episodes_of(groups), sums, strict=True):
        for turn, value in zip(episode.turns, row, strict=False):
            turn.advantage = value / max(len(turn.response_ids), 1)
