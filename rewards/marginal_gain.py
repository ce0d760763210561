"""Reward ``marginal_gain``: what a turn added to what the episode had already covered."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..agents.agent import LanguageAgent
from ..agents.episode import Episode, Group, Turn
from .base import TurnReward


class MarginalGain(TurnReward):
    """The gain of a submodular set function, the count of what was met so far.

    ``r_t = F(V_{0:t}) - F(V_{0:t-1})`` with ``F(V) = |V|`` and V the set of

    - ``observation``: what the world said, in its own words; the opening counts as met.
    - ``action``: the actions it accepted.
    - ``milestones``: the sub-goals it reports as reached.

    What was met before pays nothing, so the sum over an episode is at most the number of distinct
    things, however long it is. The method's own credit is the return-to-go less a baseline:
    ``turn_return``.

    Edge cases: a turn that was unparsable or refused met nothing, whatever was answered: endless
    new mistakes pay nothing; worlds that print a step counter say something new on every turn;
    worlds without milestones pay 0.

    Paper: submodular reinforcement learning (Prajapat et al., arXiv 2307.13372). Source: inspired
    by it and written from general knowledge.
    """

    name: Literal["marginal_gain"] = "marginal_gain"
    what: Literal["observation", "action", "milestones"] = Field(
        "observation", description="things that are counted when they are met for the first time"
    )

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        """Pay every turn the number of things that it was the first to meet."""
        return [self._gains(episode) for episode in group]

    def _gains(self, episode: Episode) -> list[float]:
        met = {episode.opening} if self.what == "observation" else set[str]()
        gains = []
        for turn in episode.turns:
            before = len(met)
            met |= self._shown(turn)
            gains.append(float(len(met) - before))
        return gains

    def _shown(self, turn: Turn) -> set[str]:
        if self.what == "milestones":
            return set(turn.milestones)
        if not turn.valid_action or turn.action is None:
            return set()
        return {turn.observation if self.what == "observation" else turn.action}
