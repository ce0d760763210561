"""Tagger: a kind of reasoning and a thought for each turn of an expert's episode.

The one hook is the call::

    class Careful(Tagger):
        name: Literal["careful"] = "careful"

        async def __call__(self, episode, instructions=""):
            return [Tagged("monitor", "One step at a time.") for turn in episode.turns]
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ...foundation.errors import PluginError, boundary
from ...foundation.plugins import Plugin, Slot
from ..episode import Episode
from ..parsers.base import Parser

KINDS = ("planning", "explore", "reflection", "monitor")
"""The kinds of reasoning."""
PARSER = f"agent.parser: {{name: tags, thoughts: [{', '.join(KINDS)}], require_think: true}}"
"""The parser that reads them, as a recipe says it."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """The tag and thought that are written before an action: never a '<' or '>' in either."""

    tag: str
    thought: str


class Tagger(Plugin):
    """Base of the slot ``agents.tagger``."""

    @property
    def failures(self) -> Counter[str]:
        """Count the episodes that the tagger could not tag, by reason."""
        return Counter()

    @abstractmethod
    async def __call__(self, episode: Episode, instructions: str = "") -> list[Tagged] | None:
        """Give one `Tagged` per turn of the episode, in the world's own words.

        None if it failed, which is counted.

        An episode without its thoughts is no demonstration. `instructions` are those of the world.
        """


async def thoughts(tagger: Tagger, episode: Episode, instructions: str) -> list[Tagged] | None:
    """Ask a tagger about an episode. Raises PluginError if it raises or answers something else."""
    what, count = f"tagger '{tagger.name}'", len(episode.turns)
    with boundary(what):
        answer: Any = await tagger(episode, instructions)
    if answer is None:
        return None
    if (
        not isinstance(answer, list)
        or len(answer) != count
        or not all(isinstance(each, Tagged) for each in answer)
    ):
        raise PluginError(
            f"{what} answered {answer!r:.80}: expected None or one Tagged for each of {count} turns"
        )
    return answer


def speaks(parser: Parser) -> bool:
    """Tell whether the parser writes and reads all four tags."""
    return all(
        parser.parse(parser.render("look", "A thought.", kind)).tag == kind for kind in KINDS
    )


TAGGERS: Slot[Tagger] = Slot("turnrl.agents.tagger", Tagger, "Taggers")
