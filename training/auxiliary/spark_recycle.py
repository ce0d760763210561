"""Auxiliary ``spark_recycle``: what was played is judged by the policy that played it."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from ...agents.agent import stream_seed
from ...agents.chat.chat import Chat
from ...agents.context.full_history import FullHistory
from ...agents.engines.base import ContextOverflow, EngineError, Sampling
from ...agents.episode import Episode, Group, StopReason, Turn
from ...agents.symmetry import rename
from ...envs import Task
from ...foundation.aio import await_all
from ...foundation.plugins import Plugged
from ..batch import map_groups
from ..losses.base import LOSSES, PolicyLoss
from ..view import StepView
from ..work import Work
from .base import Auxiliary

logger = logging.getLogger(__name__)

SINGLE = "{0}\n\nDid this attempt reach the goal? Answer yes or no."
PAIR = (
    "Attempt A:\n{0}\n\nAttempt B:\n{1}\n\nOne of them reached the goal. Which one? Answer A or B."
)
OPPOSITES = (("yes", "no"), ("A", "B"))


@dataclass(frozen=True, slots=True)
class Judgement:
    """A question about attempts at a task, and its right answer."""

    task: Task
    question: str
    answer: str


class SparkRecycle(Auxiliary):
    """Asks the policy which of its own episodes reached the goal, and pays exact answers with 1.

    Of each group two kinds of question are made: about one episode ('yes' or 'no'), and about a
    success and a failure in an order that is drawn ('A' or 'B'). They show the opening, and what
    was said and seen up to the last response, without what the world said to that, which would
    give the verdict away. The right answer is the world's own verdict. Each chosen question is
    answered `answers` times by the engine, with the weights that played; the advantage of an
    answer is what it was paid minus the mean over the answers to its question. The policy loss
    learns from them in the optimiser steps of the update.

    Of eight episodes with three successes there are eight questions about one and fifteen about
    two.

    Edge cases: right answers are balanced, as many yes as no and as many A as B; a group of one
    class has no questions about two, and a step of one class none at all; a question that does not
    fit the context, or that the engine fails at, is left out and counted (``unanswered``); answers
    enter no statistic of the groups that were played.

    Paper: SPARK (arXiv 2509.22624). Source: a description of the code of InternLM/Spark. The third
    kind of task there, to correct an answer whose verdict is known, is left out: in a world of many
    turns a corrected attempt would have to be played. The number of questions is ours.
    """

    name: Literal["spark_recycle"] = "spark_recycle"
    per_episode: float = Field(
        2.0, gt=0, description="questions per episode of the step, at most, both kinds together"
    )
    answers: int = Field(4, ge=2, description="answers to each question, which are compared")
    max_tokens: int = Field(8, ge=1, description="longest answer, in tokens")
    loss: Plugged[PolicyLoss] = Field(
        default_factory=lambda: LOSSES.build({"name": "ppo_clip"}),
        description="policy loss that learns from the answers, by name and fields",
    )

    _warned: bool = PrivateAttr(False)

    async def works(self, view: StepView) -> Sequence[Work]:
        """Make one work of the answers to the questions of this step; none without an answer."""
        rng = random.Random(view.seed)
        asked = balanced(questions(view.groups, rng), rng)
        asked = asked[: int(self.per_episode * view.batch.episodes) // 2 * 2]
        groups = await await_all(self._answers(view, i, each) for i, each in enumerate(asked))
        answered = [group for group in groups if len(group)]
        if not answered:
            self._warn_if(len(asked), view.agent.engine.max_context)
            return []
        batch = view.packed(answered)
        paid_E = batch.success_E.double()
        advantage_E = torch.zeros_like(paid_E)

        def compare(index: Tensor) -> None:
            advantage_E[index] = paid_E[index] - paid_E[index].mean()

        map_groups(batch.group_E, compare)
        metrics = {
            "questions": float(len(asked)),
            "unanswered": float(len(asked) - len(answered)),
            "accuracy": float(paid_E.mean()),
        }
        advantages_BL = batch.spread(advantage_E[:, None])
        return [
            Work(self.name, batch, advantages_BL, [self.loss], scale=self.scale, metrics=metrics)
        ]

    def _warn_if(self, asked: int, context: int) -> None:
        """Say once that questions were asked and none was answered: no metric says so."""
        if asked and not self._warned:
            self._warned = True
            logger.warning(
                "auxiliary '%s': none of %d questions could be answered: they are longer than the"
                " context of %d tokens, or the engine failed",
                *(self.name, asked, context),
            )

    async def _answers(self, view: StepView, number: int, asked: Judgement) -> Group:
        """Have a question answered; an empty group if it cannot be."""
        ids = [f"{self.name}:{view.step:06d}:{number:04d}:{k:03d}" for k in range(self.answers)]
        try:
            episodes = await await_all(self._answer(view, id, asked) for id in ids)
        except (ContextOverflow, EngineError):
            episodes = []
        return Group(asked.task, episodes)

    async def _answer(self, view: StepView, id: str, asked: Judgement) -> Episode:
        """Have the engine answer a question once: an episode of one turn."""
        agent = view.agent
        chat = Chat(agent.tokenizer, FullHistory(), arguments=agent.arguments, today=agent.today)
        prompt = chat.observe(asked.question)
        sampling = Sampling(
            temperature=view.batch.temperature,
            max_tokens=self.max_tokens,
            stop_token_ids=chat.stop_token_ids,
            seed=stream_seed(view.seed, id),
        )
        async with agent.engine.conversation(id) as talk:
            done = await talk.generate(chat.ids, sampling)
        text = chat.respond(done.token_ids, stopped=done.finish_reason == "stop")
        right = text.strip().rstrip(".").lower() == asked.answer.lower()
        turn = Turn(prompt.new_ids, False, done.token_ids, done.logprobs, text=text)
        turn.finish_reason, turn.version = done.finish_reason, done.version
        stop = StopReason.WON if right else StopReason.LOST
        return Episode(asked.task, asked.question, [turn], stop, success=right, id=id)


def questions(groups: Sequence[Group], rng: random.Random) -> list[Judgement]:
    """Make every question about the episodes of a step.

    Half of those about two, and one more if their number is odd, have the success first.
    """
    found = []
    for group in groups:
        shown = {id(episode): attempt(episode) for episode in group}
        for episode in group:
            text = SINGLE.format(shown[id(episode)])
            found.append(Judgement(group.task, text, "yes" if episode.success else "no"))
        won = [episode for episode in group if episode.success]
        pairs = list(product(won, (episode for episode in group if not episode.success)))
        firsts = [k % 2 == 0 for k in range(len(pairs))]
        rng.shuffle(firsts)
        for pair, success_first in zip(pairs, firsts, strict=True):
            texts = [shown[id(episode)] for episode in (pair if success_first else pair[::-1])]
            found.append(Judgement(group.task, PAIR.format(*texts), "A" if success_first else "B"))
    return found


def balanced(found: Sequence[Judgement], rng: random.Random) -> list[Judgement]:
    """Draw as many questions of each answer as of its opposite, and put them side by side."""
    couples: list[tuple[Judgement, Judgement]] = []
    for opposites in OPPOSITES:
        left, right = ([each for each in found if each.answer == answer] for answer in opposites)
        rng.shuffle(left)
        rng.shuffle(right)
        couples += zip(left, right, strict=False)
    rng.shuffle(couples)
    return [each for couple in couples for each in couple]


def attempt(episode: Episode) -> str:
    """Tell an episode as its player saw it, up to its last response."""
    lines = [rename(episode.opening, episode.renaming)]
    for t, turn in enumerate(episode.turns):
        lines.append(f"> {turn.text or turn.action or ''}")
        if t + 1 < len(episode.turns):
            lines.append(rename(turn.observation, episode.renaming))
    return "\n".join(lines)
