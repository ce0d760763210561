"""Tagger ``rules``: what a turn did decides its tag, and fills in its thought."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from ..episode import Episode, Turn
from ..facts import WORD, facts_of, words_of
from .base import Tagged, Tagger

_LONGEST = 12
"""Words of one action that a thought repeats: code and filled-in forms may be long."""


class RuleTagger(Tagger):
    """Tags and thoughts by rules, from facts that were known before the turn was played.

    A model can therefore learn to name them.

    - planning: the first turn, and a turn after one that reached a milestone. The thought lists
      what the next actions are about, each once, as far as the world had named it by then.
    - reflection: a turn that follows a failed one. The thought names both actions.
    - explore: a turn whose target is new in the episode.
    - monitor: every other turn.

    Paper: RLVMR (arXiv 2507.22844). Source: the paper for the kinds; rules in place of its teacher
    model are ours.
    """

    name: Literal["rules"] = "rules"
    steps: int = Field(3, ge=1, description="number of things that a plan lists at most")

    async def __call__(self, episode: Episode, instructions: str = "") -> list[Tagged]:
        """Give one tag and thought per turn."""
        return self.tag(episode)

    def tag(self, episode: Episode) -> list[Tagged]:
        """Give one tag and thought per turn, without waiting; equal episodes are tagged equally."""
        facts, answers = (
            facts_of(episode),
            [episode.opening, *(turn.observation for turn in episode.turns)],
        )
        tagged, reached = [], 0
        for t, turn in enumerate(episode.turns):
            before = len(episode.turns[t - 1].milestones) if t else 0
            if t == 0 or before > reached:
                tagged.append(Tagged("planning", self._plan(episode.turns[t:], answers[: t + 1])))
            elif facts[t].failures:
                failed = " ".join(words_of(episode.turns[t - 1])[:_LONGEST]) or "That"
                tagged.append(
                    Tagged(
                        "reflection", f"{failed} failed, now {' '.join(words_of(turn)[:_LONGEST])}."
                    )
                )
            elif facts[t].new_target:
                tagged.append(Tagged("explore", f"Not tried yet: {_name(turn)}."))
            else:
                tagged.append(Tagged("monitor", f"Next: {_name(turn)}."))
            reached = max(reached, before)
        return tagged

    def _plan(self, turns: Sequence[Turn], answers: Sequence[str]) -> str:
        """List the next things in order, without noise or what nobody could know of yet."""
        said = {word.lower() for answer in answers for word in WORD.findall(answer)}
        coming = [_name(turn) for turn in turns[1:] if turn.trained]
        known = [name for name in coming if set(name.lower().split()) <= said]
        return f"Plan: {', '.join([*dict.fromkeys([_name(turns[0]), *known])][: self.steps])}."


def _name(turn: Turn) -> str:
    """Name what an action is about: its words after the verb, or its only word."""
    words = words_of(turn)
    return " ".join((words[1:] or words or ["this"])[:_LONGEST])
