"""Reward ``process_composite``: rules about each turn, and a judge for what rules cannot see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from ..agents.agent import LanguageAgent
from ..agents.episode import Group
from ..foundation.aio import await_all
from ..foundation.plugins import Plugged
from ._wrapper import Wrapper
from .base import REWARDS, TurnReward, ask
from .judge import Judge


class CompositeRule(BaseModel):
    """One reward of the sum, its price, and when it lets the judge be asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: Plugged[TurnReward] = Field(
        description="the reward that holds the rule; its own weight is ignored"
    )
    weight: float = Field(1.0, description="price of one unit of the rule's reward")
    least: float | None = Field(
        None, description="smallest pay of the rule on a turn about which the judge is asked"
    )


def _judge_of_turns(value: Any) -> Any:
    return {"name": "judge", "per": "turn", **value} if isinstance(value, Mapping) else value


class ProcessComposite(Wrapper):
    """A weighted sum of other rewards per turn, and of a judge's score where the rules allow it.

    ``r_t = sum_k weight_k * rule_{k,t} + open_t * judge_weight * score_t``, with open_t = 1 if
    every rule that has a `least` pays that or more on turn t, else 0: what was done badly is not
    asked how well it was done. The sum is one named reward, for estimators that treat one reward as
    the process (``igpo``) or scale each one apart (``gdpo``).

    CRAFT-GUI pays ``0.1 * format + 0.3 * right_type + 0.6 * arguments`` per step, arguments only if
    the type is right. It compares with a demonstrated action; here the world says whether an action
    can be done at all, and the judge says how well it was chosen. Its weights with our unit
    penalties, of which a turn pays one at most::

        rule:                                                             # the default
          - {of: {name: format}, weight: 0.4, least: 0}                   # loses 0.1 and 0.3
          - {of: {name: invalid_action}, weight: 0.3, least: 0}           # loses 0.3
        judge: {rubric: ..., endpoint: {url: ..., model: ...}}
        judge_weight: 0.6                                                 # the default

    which is CRAFT-GUI's number minus 0.4 on every turn, so that no turn earns anything by being
    there.

    Edge cases: without a judge only the rules are paid; a rule that could not be measured makes the
    turn NaN, and so does a judge that gave no verdict; an asked judge sees nothing that came after
    the turn.

    Raises:
        UserError: the judge is not asked per turn, or its endpoint refuses the first request.

    Paper: CRAFT-GUI (arXiv 2508.11360). Source: inspired by it, written without its code; rules in
    place of demonstrations and all weights are ours.
    """

    name: Literal["process_composite"] = "process_composite"
    rule: list[CompositeRule] = Field(
        default_factory=lambda: [
            CompositeRule(of=REWARDS.build({"name": "format"}), weight=0.4, least=0.0),
            CompositeRule(of=REWARDS.build({"name": "invalid_action"}), weight=0.3, least=0.0),
        ],
        min_length=1,
        description="rewards that are summed per turn",
    )
    judge: Annotated[Plugged[Judge], BeforeValidator(_judge_of_turns)] | None = Field(
        None, description="fields of the reward judge, which is asked per turn"
    )
    judge_weight: float = Field(0.6, description="price of the judge's best score")

    @field_validator("judge")
    @classmethod
    def _sees_turns(cls, judge: Judge | None) -> Judge | None:
        if judge is not None and judge.per != "turn":
            raise ValueError("it must be the reward judge with per: turn")
        return judge

    @property
    def inner(self) -> list[TurnReward]:
        """List the rules' rewards, and the judge if there is one."""
        return [*(rule.of for rule in self.rule), *([self.judge] if self.judge else [])]

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        """Pay every turn the sum of the rules, and the judge's score where they allow it."""
        paid = [[0.0] * len(episode.turns) for episode in group]
        open_turns = [[True] * len(episode.turns) for episode in group]
        for rule in self.rule:
            for e, row in enumerate(await ask(rule.of, group, scorer)):
                for t, value in enumerate(row):
                    # NaN reaches no `least`: nobody is asked about a turn that is NaN anyway.
                    paid[e][t] += rule.weight * value
                    open_turns[e][t] &= rule.least is None or value >= rule.least
        if self.judge is not None:
            asked = [
                (e, t)
                for e, row in enumerate(open_turns)
                for t, is_open in enumerate(row)
                if is_open
            ]
            scores = await await_all(self.judge.of_turn(group.episodes[e], t) for e, t in asked)
            for (e, t), score in zip(asked, scores, strict=True):
                paid[e][t] += self.judge_weight * score
        return paid
