"""Reward ``meta_reasoning``: did a turn do what the kind of reasoning it named is for?"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..agents.agent import LanguageAgent
from ..agents.episode import Episode, Group
from ..agents.facts import facts_of
from ..agents.tagger.base import PARSER
from ..foundation.errors import UserError
from .base import TurnReward


class MetaReasoning(TurnReward):
    """Rules that check a turn's tag against the world's answer: ``r_t = r_tag + r_format``.

    - planning: `planning` iff the episode succeeded, for the first `max_planning` such turns.
    - explore: `explore` iff the action was accepted, names after its verb what no accepted action
      named before, and the episode had not seen the world's answer.
    - reflection: `reflection` iff it follows at least `min_failures` failed turns and its own
      action was accepted, had an effect and is none of those that failed.
    - monitor: 0. Without one of these tags: ``-format_penalty``.

    A turn failed if it could not be parsed, was refused, or had no effect: the world answered what
    it had answered just before (refusals in between aside), or the same action had already brought
    the same answer; a new height of score or milestones is an effect in any case. Nothing that the
    model wrote beside tag and action counts. Whatever its length, an episode is paid for at most
    `max_planning` plans, one exploration per target and per answer, and one reflection per run of
    failures and per pair of action and answer or gain of score.

    Edge cases: an action of one word names nothing and explores nothing; the opening is an answer
    that was seen; an unparsable turn pays `format_penalty` here and again in the reward ``format``,
    if both are asked for; failures that are made in order to reflect have no price here: ``format``
    and ``invalid_action`` charge some, ``step_cost`` all.

    Raises:
        UserError: turns of a group were parsed and none names a kind of reasoning, so the parser
            knows none.

    Paper: RLVMR (arXiv 2507.22844). Source: the paper; the penalty from a description of it; the
    sizes of the others, the cap and the conditions on answers are ours. Credit ``tag_group``
    compares what it pays by tag.
    """

    name: Literal["meta_reasoning"] = "meta_reasoning"
    planning: float = Field(
        1.0, ge=0, description="reward of a planning turn of a successful episode"
    )
    explore: float = Field(1.0, ge=0, description="reward of a turn that explores something new")
    reflection: float = Field(1.0, ge=0, description="reward of a turn that corrects a failure")
    format_penalty: float = Field(
        0.1, ge=0, description="price of a turn without one of the four tags"
    )
    max_planning: int | None = Field(
        3, ge=0, description="planning turns of an episode that are paid (null: all)"
    )
    min_failures: int = Field(1, ge=1, description="failed turns that a reflection must follow")

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        """Pay every turn by whether it did what the kind of reasoning it named is for."""
        parsed = [turn for episode in group for turn in episode.turns if turn.action is not None]
        if parsed and all(turn.tag is None for turn in parsed):
            raise UserError(
                f"reward 'meta_reasoning': no turn of task '{group.task.id}' names its kind of"
                f" reasoning; set {PARSER}"
            )
        return [self._paid(episode) for episode in group]

    def _paid(self, episode: Episode) -> list[float]:
        values, plans = [], 0
        for turn, facts in zip(episode.turns, facts_of(episode), strict=True):
            plans += turn.tag == "planning"
            planned = episode.success and (self.max_planning is None or plans <= self.max_planning)
            explored = turn.valid_action and facts.new_target and facts.new_answer
            corrected = facts.effect and facts.differs and len(facts.failures) >= self.min_failures
            earned = {
                "planning": self.planning * planned,
                "explore": self.explore * explored,
                "reflection": self.reflection * corrected,
                "monitor": 0.0,
            }
            values.append(earned.get(turn.tag or "", -self.format_penalty))
        return values
