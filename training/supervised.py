"""Supervised warm start: a few expert episodes, stopped on the validation split.

Only the tokens an agent would have written carry loss, unless `observation_weight` says otherwise
(a model that starts from nothing learns the world's language from observations too).
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..agents.baselines import ExpertAgent
from ..agents.demonstrations import fitting, retell
from ..agents.episode import Episode, Group
from ..agents.models.forward import autocast, score
from ..agents.play import EpisodeJob, play_many
from ..agents.tagger.base import Tagged, thoughts
from ..envs import Task, TextEnv, make_for
from ..foundation.aio import await_all
from ..foundation.errors import RunFailed, UserError
from .batch import TokenBatch
from .interrupt import Asked
from .learner.optim import apply_step, make_optimizer, restore_optimizer
from .publisher import Publisher
from .run_folder.checkpoint import TrainerState
from .run_folder.folder import LAST
from .session import Session

if TYPE_CHECKING:
    from .stages.sft import Sft

logger = logging.getLogger(__name__)

Demonstration = tuple[Episode, list[Tagged] | None]
"""An expert's episode and what is thought in it, if anything is."""


GIVE_UP_AFTER = 3
"""Updates in a row without a finite gradient that end the stage."""


class SupervisedTrainer:
    """One sft stage.

    Args:
        session: the parts of the run.
        stage: its configuration.
        index: its place among the stages, for checkpoints.
    """

    def __init__(self, session: Session, stage: Sft, index: int) -> None:
        self.session, self.stage, self.index, self.label = session, stage, index, stage.label
        self.hint = (
            f"lower {self.label}.optim.lr, and look at the weights that the stage starts from"
        )
        self.tagger = None if stage.tagger is None else stage.tagger.begin()
        self.lost = 0
        """Demonstrations that the tagger failed at."""
        self.shown: tuple[list[Episode], list[Episode]] | None = None
        """Demonstrations to learn from and to validate on, once they are made."""
        self.done = 0
        """Updates."""
        self.useless = 0
        """Updates in a row without a finite gradient."""
        self.over = False
        self.best, self.bad_looks = float("inf"), 0
        self.best_weights = _trained(session.model)
        self.optimizer = make_optimizer([(session.model.parameters(), 1.0)], stage.optim)

    async def run(self, state: TrainerState | None = None) -> int:
        """Train until the validation loss is low enough or ceases to fall, or the epochs are over.

        Returns the updates. The model then has the weights of the best look. With `state`, go on
        from what `state` returned.
        """
        session = self.session
        session.where = f"before the first update of {self.label}"
        if state is None:
            self.save()  # The tokenizer is made: a resume needs neither it nor its texts again.
        else:
            self.restore(state)
        if not self.over:
            if self.shown is None:
                self.shown = await session.interrupts.cancel_for(self.demonstrate())
            train, valid = self.shown
            while not self.over:
                try:
                    session.interrupts.check()
                except Asked:
                    session.where = f"at {self.label} update {self.done}"
                    self.save()
                    raise
                self.learn_once(train, valid)
                if self.done % self.stage.checkpoint_every == 0 and not self.over:
                    self.save()
            if not math.isfinite(self.best):
                raise RunFailed(
                    f"{self.label}: no validation loss was finite, so no weights are worth keeping:"
                    f" {self.hint}"
                )
            session.model.load_state_dict(self.best_weights, strict=False)
            session.save(self.label, (self.index, self.done))
            self.save()
        await Publisher(session.engine, session.model).push(session.model.state_dict(), 0)
        return self.done

    def learn_once(self, train: list[Episode], valid: list[Episode]) -> None:
        """Make one update, and look at the validation split where that is due."""
        session, stage, update = self.session, self.stage, self.done
        updates_per_epoch = -(-len(train) // stage.batch)
        total = stage.epochs * updates_per_epoch
        epoch, offset = divmod(update, updates_per_epoch)
        generator = torch.Generator("cpu").manual_seed(session.recipe.seed + epoch)
        order = torch.randperm(len(train), generator=generator, device="cpu").tolist()
        chosen = [train[i] for i in order[offset * stage.batch : (offset + 1) * stage.batch]]
        started = time.perf_counter()
        with self.dropout(update):
            loss = self.learn(chosen)
        [norm] = apply_step(
            self.optimizer, stage.optim.lr_at(update, total), stage.optim.max_grad_norm
        )
        self.useless = 0 if math.isfinite(norm) else self.useless + 1
        if self.useless >= GIVE_UP_AFTER:
            raise RunFailed(
                f"{self.label}: no gradient of the last {self.useless} updates was finite, so"
                f" nothing is learnt: {self.hint}"
            )
        metrics = {"loss": loss, "grad_norm": norm, "seconds/update": time.perf_counter() - started}
        if self.lost and not update:
            metrics["lost/tagger"] = float(self.lost)
        self.done += 1
        if self.done % stage.validate_every == 0 or self.done >= total:
            valid_loss = metrics["valid_loss"] = self.loss_of(valid)
            if valid_loss < self.best:
                self.best, self.best_weights, self.bad_looks = (
                    valid_loss,
                    _trained(session.model),
                    0,
                )
            else:
                self.bad_looks += 1
            low = stage.until_loss is not None and valid_loss <= stage.until_loss
            self.over = low or self.bad_looks >= stage.patience or self.done >= total
        session.record(self.label, self.done, "train", metrics)

    def save(self) -> None:
        """Write the checkpoint that a resume goes on from."""
        shown = (
            None
            if self.shown is None
            else [[e.to_json() for e in episodes] for episodes in self.shown]
        )
        parts = {
            "optimizer": self.optimizer.state_dict(),
            "shown": json.dumps(shown),
            "lost": self.lost,
            "best": self.best,
            "best_weights": self.best_weights,
            "bad_looks": self.bad_looks,
            "useless": self.useless,
            "over": self.over,
        }
        self.session.save(LAST, (self.index, self.done), parts)

    def restore(self, state: TrainerState) -> None:
        """Go on from the checkpoint that `save` wrote."""
        parts, self.done = state.parts, state.step
        restore_optimizer(self.optimizer, parts["optimizer"])
        shown = json.loads(parts["shown"])
        if shown is not None:
            train, valid = ([Episode.from_json(data) for data in episodes] for episodes in shown)
            self.shown = train, valid
        self.lost, self.best, self.bad_looks = parts["lost"], parts["best"], parts["bad_looks"]
        self.best_weights, self.useless, self.over = (
            parts["best_weights"],
            parts["useless"],
            parts["over"],
        )

    async def demonstrate(self) -> tuple[list[Episode], list[Episode]]:
        """Show training tasks by the expert under each symmetry, and validation tasks as they are.

        Episodes that the tagger failed at are left out. Raises UserError if no others are left.
        """
        session, stage = self.session, self.stage
        train = await expert_episodes(
            session, session.choose("train", stage.demonstrations), stage.noise
        )
        valid = await expert_episodes(session, session.choose("valid", stage.validation), 0.0)
        renamings = session.renamings(stage.symmetries)
        tasks = {episode.task.family: episode.task for episode in (*train, *valid)}
        worlds = {family: make_for(task) for family, task in tasks.items()}

        def told(
            episode: Episode, tagged: list[Tagged] | None, renaming: Mapping[str, str]
        ) -> Episode:
            world = worlds[episode.task.family]
            return retell(episode, session.agent, world.instructions, renaming, world.tools, tagged)

        taught, checked = await self.tag({"training": train, "validation": valid}, worlds)
        views = min(stage.views or len(renamings), len(renamings))
        shown = [
            told(*demonstration, renamings[(i * views + view) % len(renamings)])
            for i, demonstration in enumerate(taught)
            for view in range(views)
        ]
        known = [told(*demonstration, {}) for demonstration in checked]
        return self.readable(shown, "training"), self.readable(known, "validation")

    def readable(self, told: list[Episode], split: str) -> list[Episode]:
        """Cut demonstrations where they no longer fit the model's context.

        Those that never do are left out. What is cut is warned about. Raises UserError if nothing
        is left of any.
        """
        limit = self.session.engine.max_context
        cut = [fitting(episode, limit) for episode in told]
        kept = [episode for episode in cut if episode.turns]
        if not kept:
            raise UserError(
                f"model.max_context: no turn of any {split} demonstration fits {limit} tokens"
            )
        shorter = sum(len(a.turns) < len(b.turns) for a, b in zip(cut, told, strict=True))
        if shorter:
            logger.warning(
                "%s: %d of %d %s demonstrations do not fit a context of %d tokens: they end where"
                " it does",
                *(self.label, shorter, len(told), split, limit),
            )
        return kept

    async def tag(
        self, played: Mapping[str, list[Episode]], worlds: Mapping[str, TextEnv]
    ) -> list[list[Demonstration]]:
        """Ask for thoughts in the episodes of each split, all side by side; none without a tagger.

        Episodes that the tagger failed at are left out, counted and warned about. Raises UserError
        if those are all episodes of a split.
        """
        if self.tagger is None:
            return [[(episode, None) for episode in episodes] for episodes in played.values()]
        everything = [episode for episodes in played.values() for episode in episodes]
        answers = iter(
            await await_all(
                thoughts(self.tagger, e, worlds[e.task.family].instructions) for e in everything
            )
        )
        kept: dict[str, list[Demonstration]] = {}
        for split, episodes in played.items():
            kept[split] = [
                (episode, tagged) for episode in episodes if (tagged := next(answers)) is not None
            ]
            if not kept[split]:
                raise UserError(
                    f"{self._failed_at(f'every {split} episode')}: there is nothing to show"
                )
        self.lost = len(everything) - sum(map(len, kept.values()))
        if self.lost:
            what = f"{self.lost} of {len(everything)} demonstrations"
            logger.warning("%s: they are left out", self._failed_at(what))
        return list(kept.values())

    def _failed_at(self, what: str) -> str:
        assert self.tagger is not None
        reasons = ", ".join(sorted(self.tagger.failures)) or "no reason given"
        return f"{self.label}: tagger '{self.tagger.name}' failed at {what} ({reasons})"

    def learn(self, episodes: list[Episode]) -> float:
        """Add the gradient of one batch to the weights'; return its loss per trained token."""
        batch, weights_BL = self.pack(episodes)
        total = 0.0
        for rows in batch.split(self.stage.token_budget):
            loss = self.nll(batch.select(rows), weights_BL[rows])
            loss.backward()
            total += float(loss.detach())
        return total

    @contextmanager
    def dropout(self, update: int) -> Iterator[None]:
        """Use the model's own dropout inside the block if the stage asks for it.

        It is drawn anew for each update.
        """
        model = self.session.model
        if not self.stage.dropout:
            yield
            return
        device = next(model.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.session.recipe.seed * 1_000_003 + update)
            model.train()
            try:
                yield
            finally:
                model.eval()

    @torch.no_grad()
    def loss_of(self, episodes: list[Episode]) -> float:
        """Compute the negative log-likelihood (nats) per action token."""
        batch, _ = self.pack(episodes)
        weights_BL = batch.mask_BL / batch.mask_BL.sum()
        return sum(
            float(self.nll(batch.select(rows), weights_BL[rows]))
            for rows in batch.split(self.stage.token_budget)
        )

    def pack(self, episodes: list[Episode]) -> tuple[TokenBatch, Tensor]:
        """Pack episodes into a batch, with one weight per token.

        Action tokens share 1, observation tokens `observation_weight`. What is no answer of the
        expert's has none, wherever it stands: neither a random action nor its repetition.
        """
        batch = TokenBatch.pack(
            [Group(episode.task, [episode]) for episode in episodes],
            device=next(self.session.model.parameters()).device,
        )
        assert batch.heard_BL is not None
        seen_BL = batch.heard_BL.clone()
        seen_BL[:, :1] = False
        weights_BL = batch.mask_BL / batch.mask_BL.sum().clamp(min=1)
        return batch, weights_BL + seen_BL * (
            self.stage.observation_weight / seen_BL.sum().clamp(min=1)
        )

    def nll(self, batch: TokenBatch, weights_BL: Tensor) -> Tensor:
        """Compute the weighted negative log-likelihood of a micro-batch."""
        weights_BL = weights_BL[:, : batch.tokens_BL.shape[1]]
        with autocast(self.stage.bf16, batch.device):
            scores = score(self.session.model, batch.tokens_BL, weights_BL > 0)
        return -(scores.logprobs_BL * weights_BL).sum()


async def expert_episodes(session: Session, tasks: list[Task], noise: float) -> list[Episode]:
    """Play every task by the expert, and return the episodes that it won.

    The others are warned about. Raises UserError if it wins none.
    """
    agent = ExpertAgent(noise)
    pool = session.recipe.pool.build(16, agent.extras)
    try:
        jobs = [EpisodeJob(task, f"expert:{task.id}", session.recipe.seed) for task in tasks]
        episodes, _ = await play_many(
            agent, jobs, pool, max_turns=4 * session.recipe.agent.max_turns, concurrency=16
        )
    finally:
        await pool.aclose()
    won = [episode for episode in episodes if episode.success]
    if len(won) < len(episodes):
        lost, first = (
            len(episodes) - len(won),
            next(episode for episode in episodes if not episode.success),
        )
        why = (first.error or "").strip().splitlines()[-1:] or [first.stop.value]
        what = f"{lost} of {len(episodes)} tasks, such as {first.task.id} ({why[0]})"
        if not won:
            raise UserError(f"the expert does not win {what}: nothing can be demonstrated")
        logger.warning("the expert does not win %s: they are not demonstrated", what)
    return won


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """Copy the weights that are trained, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
