"""Facts: what a turn did in the world, whatever was written about it.

The rules that tag demonstrations and the reward ``meta_reasoning`` go by the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .episode import Episode, Turn

WORD = re.compile(r"[\w'-]+")


@dataclass(frozen=True, slots=True)
class Facts:
    """What one turn did, by the world's own words and answers."""

    new_target: bool
    """What the action names after its verb was not named by an accepted action before; False if it
    names nothing.
    """
    new_answer: bool
    """The episode had not seen this answer of the world before."""
    effect: bool
    """The action was accepted and did something; a turn without effect failed."""
    failures: tuple[str | None, ...]
    """Actions of the failed turns that this one directly follows, None for one that could not be
    parsed.
    """
    differs: bool
    """The action is none of those."""


def facts_of(episode: Episode) -> list[Facts]:
    """List the facts of each turn.

    An accepted action had no effect if the world answered what it had answered just before
    (refusals in between do not count: looking around after one is no way out), or if the same
    action had already brought the same answer; unless score or milestones are higher than ever.
    Actions are compared as the words that reach a world: case, punctuation and backslashes do not
    make a new one.
    """
    facts: list[Facts] = []
    targets, answers, deeds = set[str](), {episode.opening}, set[tuple[str, str]]()
    before = shown = episode.opening
    failures: tuple[str | None, ...] = ()
    score, milestones = 0.0, 0
    for turn in episode.turns:
        action, answer = _normal(words_of(turn)), turn.observation
        target = _normal(words_of(turn)[1:])
        accepted = turn.action is not None and turn.valid_action
        gained = (turn.score or 0.0) > score or len(turn.milestones) > milestones
        score, milestones = max(score, turn.score or 0.0), max(milestones, len(turn.milestones))
        effect = accepted and (
            gained or (answer not in (before, shown) and (action, answer) not in deeds)
        )
        facts.append(
            Facts(
                new_target=bool(target) and target not in targets,
                new_answer=answer not in answers,
                effect=effect,
                failures=failures,
                differs=action not in failures,
            )
        )
        failures = () if effect else (*failures, None if turn.action is None else action)
        deeds.add((action, answer))
        if turn.answered:
            answers.add(answer)
            before = answer
        if accepted:
            shown = answer
            targets.add(target)
    return facts


def words_of(turn: Turn) -> list[str]:
    """List the words of a turn's action that reach a world; none if it could not be parsed."""
    # Worlds never see a backslash; see envs/sanitise.py.
    return WORD.findall((turn.action or "").replace("\\", ""))


def _normal(words: Sequence[str]) -> str:
    return " ".join(words).lower()
