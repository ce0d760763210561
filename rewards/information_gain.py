"""Reward ``information_gain``: how much likelier did this turn make the right answer?"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from ..agents.agent import LanguageAgent
from ..agents.engines.base import ContextOverflow, EngineError
from ..agents.episode import Episode, Group
from ..agents.symmetry import rename
from ..foundation.aio import await_all
from ..foundation.errors import UserError
from ..foundation.plugins import Need
from .base import TurnReward


class InformationGain(TurnReward):
    """Change of the policy's own probability of a target, after each turn but the last.

    ``s_t = (1/L) sum_j log pi(a_j | C_t, a_<j)`` with a_1 .. a_L the tokens of the target,
    teacher-forced inside a response as the agent's parser writes it, and C_t everything the policy
    had read before turn t. ``r_t = s_{t+1} - s_t`` (`gain` ``log_prob``) or ``exp(s_{t+1}) -
    exp(s_t)`` (``prob``). The answering turn has no gain. No gradient flows.

    The target stands when the episode begins and stays: a gold answer of the world (`target`
    ``answer``; the likeliest where there are several), the last action of the plan by which the
    world's expert wins from the start (``expert``: the one that reaches the goal, such as "take
    coin"), or a text (``goal``). So s is a potential: the gains of an episode sum to the difference
    between its last and its first context, and what a detour gains or loses its correction takes
    back, as far as the policy judges a place alike however it came there. Nothing is paid for being
    where the next action is easy. Choose ``expert`` where the action that wins names something of
    the task; a word that is said at every turn, such as a direction, tells nothing.

    One forward pass over nothing but the targets is needed per turn of the batch: contexts are
    those in the engine's cache of the episode. ``expert`` also plays each episode's task once in
    the world before the policy does.

    Edge cases: an episode of one turn has no gain; a failing engine, or a task that the expert does
    not win, gives NaN; near the end of the model's context, where the target no longer fits,
    nothing is gained, and NaN if it never fits; under a symmetry the target is renamed like
    everything else.

    Raises:
        UserError: the world has no gold answer.

    Paper: IGPO (arXiv 2510.14967). Source: the code of GuoqingWang1/IGPO and a description of the
    paper; targets other than gold answers are ours.
    """

    name: Literal["information_gain"] = "information_gain"
    target: Literal["answer", "expert", "goal"] = Field(
        "answer",
        description=(
            "what should become likelier: a gold answer, the expert's winning action, or a text"
        ),
    )
    goal: str | None = Field(
        None, min_length=1, description="text that should become likelier, for target 'goal'"
    )
    answer: str = Field("{}", description="the action that gives an answer, {} being the answer")
    gain: Literal["log_prob", "prob"] = Field(
        "log_prob",
        description="whether a gain is a difference of log-probabilities or of probabilities",
    )

    @model_validator(mode="after")
    def _consistent(self) -> InformationGain:
        if (self.target == "goal") != (self.goal is not None):
            raise ValueError("the field 'goal' belongs to target 'goal', which needs it")
        if "{}" not in self.answer:
            raise ValueError("the field 'answer' needs a place {} for the answer")
        return self

    def needs(self) -> frozenset[Need]:
        """List as needs the agent that played, and the expert if it names the target."""
        return frozenset({Need.SCORER, Need.EXPERT} if self.target == "expert" else {Need.SCORER})

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        """Pay every turn how much likelier it made the target; the last one gets 0."""
        if scorer is None:
            raise ValueError("information_gain needs the agent that played")
        return await await_all(self._gains(episode, scorer) for episode in group)

    async def _gains(self, episode: Episode, agent: LanguageAgent) -> list[float]:
        targets = [rename(target, episode.renaming) for target in self._targets(episode)]
        scores: list[float | None] = [0.0] * len(episode.turns)
        # From the last context to the first: each is the beginning of what the cache still holds.
        for t in reversed(range(len(episode.turns) if len(episode.turns) > 1 else 0)):
            try:
                scores[t] = await self._score(episode, t, targets, agent)
            except ContextOverflow:
                scores[t] = None
            except EngineError:
                scores[t] = math.nan
        known = carried(scores)
        if self.gain == "prob":
            known = [math.exp(score) for score in known]
        return [after - before for before, after in pairwise(known)] + [0.0] * bool(episode.turns)

    async def _score(
        self, episode: Episode, t: int, targets: list[str], agent: LanguageAgent
    ) -> float:
        """Compute s_t of the likeliest target; NaN where there is no target."""
        prompt, best = episode.prompt(t), -math.inf
        scorer = agent.engine.conversations.get(episode.id, agent.engine)
        for words in targets:
            ids, first = agent.encode_answer(self.answer.replace("{}", words), words)
            logprobs = await scorer.score(prompt + ids, len(prompt) + first)
            best = max(best, sum(logprobs) / len(logprobs))
        return best if targets else math.nan

    def _targets(self, episode: Episode) -> list[str]:
        """List the answers that should become likelier, in the world's own words."""
        if self.target == "goal":
            return [self.goal or ""]
        if self.target == "expert":
            return episode.expert[-1:]
        golds = [gold for gold in episode.answer or [] if gold.strip()]
        if not golds:
            task = episode.task
            raise UserError(
                f"reward 'information_gain': {task.env} has no gold answer for task '{task.id}'; "
                "set target: expert, or target: goal with a text"
            )
        return golds


def carried(scores: list[float | None]) -> list[float]:
    """Replace each None by the score before it, or by NaN where there is none."""
    known: list[float] = []
    for score in scores:
        known.append(score if score is not None else known[-1] if known else math.nan)
    return known
