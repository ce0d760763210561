"""The walk: a Task becomes an Episode becomes a number on each token. Read `Trainer.step` from top
to bottom.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..agents.episode import Group, episodes_of
from ..agents.evaluation import MOST_FAILED
from ..agents.models.forward import score_batch
from ..foundation.plugins import Need
from . import boundaries
from .batch import TokenBatch, map_groups
from .learner.average import WeightAverage
from .learner.critic import Critic
from .learner.optim import make_optimizer, restore_optimizer
from .learner.update import Learner
from .patience import check_finite, enough_memory
from .recipe import RlStage
from .reward_table import RewardTable, measured, reward_all
from .run_folder.checkpoint import TrainerState
from .run_folder.log import Record
from .session import Session
from .source.gather import gather
from .source.rollout import rollout

LOWER = (
    "rl.token_budget (tokens of a micro-batch), rl.tasks_per_step, rl.group_size or the size of the"
    " model"
)


class Trainer:
    """One rl stage.

    Args:
        session: the parts of the run.
        stage: its configuration.
        index: its place among the stages, for checkpoints.
    """

    def __init__(self, session: Session, stage: RlStage, index: int) -> None:
        self.session, self.stage, self.index = session, stage, index
        longest = session.recipe.agent.max_turns * session.recipe.agent.sampling.max_tokens
        self.credit, loss = stage.credit.begin(), stage.loss.begin().of_length(longest)
        self.modifiers = [modifier.begin() for modifier in stage.modifiers]
        self.selection = [selection.begin() for selection in stage.selection]
        regularizers = [term.begin() for term in stage.regularizers]
        self.rewards = [reward.begin() for reward in session.recipe.rewards]
        self.curriculum = stage.curriculum.begin()
        self.plugins = [
            self.credit,
            loss,
            *regularizers,
            *self.rewards,
            *self.modifiers,
            self.curriculum,
            *self.selection,
        ]
        self.weights = {reward.name: reward.weight for reward in self.rewards}
        self.drawn = 0
        self.needs = frozenset().union(*(plugin.needs() for plugin in self.plugins))
        self.critic = Critic(session.model, stage.critic) if Need.VALUES in self.needs else None
        self.reference = frozen_copy(session.model) if Need.REF_LOGPROBS in self.needs else None
        groups = [(session.model.parameters(), 1.0)]
        if self.critic is not None:
            groups.append((self.critic.parameters(), stage.critic.lr / stage.optim.lr))
        self.learner = Learner(
            session.model,
            make_optimizer(groups, stage.optim),
            stage,
            loss,
            regularizers,
            self.critic,
        )
        self.average = WeightAverage(session.model, stage.average)
        self.seconds: dict[str, float] = {}
        self.measured = 0
        """Groups of the step that were played and rewarded, before any was filtered out."""
        self.cause = ""
        """Why the last step taught nothing; empty if it did, or if filters dropped what was played.
        """

    # -- the walk ----------------------------------------------------------------------------------

    async def step(self, number: int) -> Record:
        """One step of learning; returns its metrics."""
        session, stage, seed = self.session, self.stage, self.session.recipe.seed
        self.seconds, self.measured = {}, 0
        before = session.pool.faults.counts.copy()
        groups, metrics = await gather(
            partial(self.play, number), self.selection, stage.tasks_per_step, self.weights
        )
        self.cause = self.why_nothing(before)
        if not groups:
            return metrics | {"skipped": 1.0}
        self.warn_of_survivors(number + 1, metrics)
        with self._clock("score"), enough_memory(f"step {number + 1}", LOWER):
            batch = self.batch(groups)
        with self._clock("credit"):
            table = self.table(groups, batch)
            advantages = boundaries.advantages_of(self.credit, table, batch)
            for modifier in self.modifiers:
                advantages = boundaries.modified(modifier, advantages, batch)
            annotate(groups, batch.per_turn(advantages.values))
        if not bool(torch.isfinite(advantages.values).all()):
            self.cause = (
                f"credit '{self.credit.name}' and its modifiers gave advantages that are not finite"
            )
            return metrics | {"skipped": 1.0} | self.timing()
        with self._clock("update"), enough_memory(f"step {number + 1}", LOWER):
            updated = self.learner.update(batch, advantages, number, seed)
            if updated.get("gradients/lost") == 1:
                self.cause = "no gradient was finite, so no optimiser step was taken"
            check_finite(session.model, f"after step {number + 1}")
            self.average.update()
            await session.engine.push(session.model.state_dict(), number + 1)
        if self.due(number, stage.episodes_every):
            session.write_episodes("rl", number + 1, episodes_of(groups), stage.save_episodes)
        return metrics | updated | self.describe(batch, table, advantages.values) | self.timing()

    async def play(
        self, number: int, count: int, first: int
    ) -> tuple[list[Group], dict[str, float]]:
        """`count` more tasks of step `number`, played and rewarded; groups in which nothing was
        said are left out.
        """
        session, stage, seed = self.session, self.stage, self.session.recipe.seed
        with ExitStack() as conversations:
            with self._clock("play"):
                full = session.recipe.agent.max_turns
                known = session.choose("train", stage.tasks)
                tasks = boundaries.next_tasks(self.curriculum, known, count, self.drawn, seed)
                self.drawn += count
                groups, metrics = await rollout(
                    tasks,
                    session.agent,
                    session.pool,
                    group_size=stage.group_size,
                    step=number,
                    seed=seed,
                    max_turns=boundaries.turn_limit(self.curriculum, full, number / stage.steps),
                    task_turns=full,
                    concurrency=stage.concurrency,
                    renamings=session.renamings(stage.symmetries),
                    first=first,
                    ask_expert=Need.EXPERT in self.needs,
                    keep=conversations if Need.SCORER in self.needs else None,
                )
                boundaries.observe(self.curriculum, groups)
            with self._clock("reward"):
                table = await reward_all(self.rewards, groups, session.agent, session.pool.faults)
        groups, unmeasured = measured(groups, table)
        metrics |= {f"lost/reward_{name}": float(count) for name, count in unmeasured.items()}
        groups = [group for group in groups if any(episode.response_tokens for episode in group)]
        self.measured += len(groups)
        return groups, metrics

    def batch(self, groups: Sequence[Group]) -> TokenBatch:
        """Tensors, with the costly fields that some plug-in asked for."""
        stage, model = self.stage, self.session.model
        temperature = self.session.recipe.agent.sampling.temperature
        cut = self.credit.bootstraps() if self.critic is not None else frozenset()
        batch = TokenBatch.pack(groups, merge=stage.merge, closing=cut, temperature=temperature)
        rows = list(batch.split(stage.token_budget))

        def scored(policy: nn.Module) -> Tensor:
            return score_batch(
                policy,
                batch.tokens_BL,
                batch.mask_BL,
                rows,
                temperature=temperature,
                bf16=stage.bf16,
            )

        # Where the engine's arithmetic is not exactly the trainer's, its log-probabilities are of
        # another policy.
        if Need.OLD_LOGPROBS in self.needs or stage.bf16 or not self.session.engine.full_precision:
            batch = replace(batch, old_logprobs_BL=scored(model))
        if self.reference is not None:
            batch = replace(batch, ref_logprobs_BL=scored(self.reference))
        if self.critic is not None:
            open_E = batch.stopped_E(cut)
            values_BL, bootstrap_E = self.critic.evaluate(
                model, batch, rows, open_E, bf16=stage.bf16
            )
            batch = replace(batch, values_BL=values_BL, bootstrap_E=bootstrap_E)
        return batch

    def table(self, groups: Sequence[Group], batch: TokenBatch) -> RewardTable:
        """The recipe's rewards, and those of regularizers that act on rewards."""
        table = RewardTable.of(groups, self.weights, batch.device)
        for term in self.learner.regularizers:
            reward_BL = boundaries.reward_of(term, batch)
            if reward_BL is not None:
                table = table.with_reward(term.name, batch.per_turn(reward_BL), term.coefficient)
        return table

    # -- beside the walk ---------------------------------------------------------------------------

    def warn_of_survivors(self, step: int, metrics: Record) -> None:
        """Say once that many episodes are missing, of which more were long than of those that are
        left.
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
        """Why no episode of the step can be learnt from; empty if some can."""
        if self.measured:
            return ""
        lost = self.session.pool.faults.since(before)
        return (
            f"no episode could be learnt from ({lost})"
            if lost
            else "no response was sampled in any episode"
        )

    def due(self, number: int, every: int) -> bool:
        """Every so many steps, at the first and at the last."""
        return every > 0 and (
            number == 0 or (number + 1) % every == 0 or number + 1 == self.stage.steps
        )

    @asynccontextmanager
    async def averaged(self, done: int) -> AsyncIterator[None]:
        """The model and the engine have the averaged weights inside the block: those to evaluate
        and to save.
        """
        session = self.session
        with self.average.applied():
            await session.engine.push(session.model.state_dict(), done)
            yield
        await session.engine.push(session.model.state_dict(), done)

    def describe(
        self, batch: TokenBatch, table: RewardTable, advantages_BL: Tensor
    ) -> dict[str, float]:
        """Metrics of rewards and advantages."""
        return_E = table.total_E
        components = {
            f"reward/{name}": float(sums_E.mean())
            for name, sums_E in zip(table.names, table.sums_KE, strict=True)
        }
        flat = advantages_BL[batch.mask_BL].double()
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
        """What playing a step changes: plug-ins, tasks drawn, random streams. A copy."""
        return {
            "drawn": self.drawn,
            "plugins": [boundaries.memory_of(plugin) for plugin in self.plugins],
            "rng": torch.get_rng_state(),
        }

    def state(self, memory: dict[str, Any] | None = None, *, evaluated: bool) -> dict[str, Any]:
        """What a resume needs beside the weights: the parts of a `TrainerState`.

        Args:
            memory: as it was before a step that was not finished; default as it is now.
            evaluated: whether the evaluation that is due at this step was made.
        """
        return {
            "optimizer": self.learner.optimizer.state_dict(),
            "critic": None if self.critic is None else self.critic.state_dict(),
            "reference": None if self.reference is None else self.reference.state_dict(),
            "average": self.average.state_dict(),
            "memory": memory or self.memory(),
            "evaluated": evaluated,
        }

    async def restore(self, state: TrainerState) -> None:
        """Continue from what `state` returned."""
        restore_optimizer(self.learner.optimizer, state.parts["optimizer"])
        for module, key in ((self.critic, "critic"), (self.reference, "reference")):
            if module is not None:
                module.load_state_dict(state.parts[key])
        self.average.load_state_dict(state.parts["average"])
        memory = state.parts["memory"]
        self.drawn = memory["drawn"]
        for plugin, saved in zip(self.plugins, memory["plugins"], strict=True):
            plugin.load_state_dict(saved)
        await self.session.engine.push(self.session.model.state_dict(), state.step)
        torch.set_rng_state(memory["rng"])

    def timing(self) -> dict[str, float]:
        """Seconds by phase."""
        return {f"seconds/{name}": value for name, value in self.seconds.items()}

    @contextmanager
    def _clock(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started


def annotate(groups: Sequence[Group], sums_ET: Tensor) -> None:
    """Write each turn's mean advantage into the turn, for reports.

    Args:
        sums_ET: of the advantages of a turn's tokens.
    """
    for episode, row in zip(episodes_of(groups), sums_ET.tolist(), strict=True):
        for turn, value in zip(episode.turns, row, strict=False):
            turn.advantage = value / max(len(turn.response_ids), 1)


def frozen_copy(model: nn.Module) -> nn.Module:
    """The policy as it is now, never trained."""
    return copy.deepcopy(model).eval().requires_grad_(False)
