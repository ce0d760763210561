"""Symmetries: play or retell a world under a renaming of words that leaves it the same world.

A world lists its renamings in `TextEnv.symmetries` (a map may be turned or mirrored, for example).
One game seen under eight of them is eight games to a model, and the world itself never knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..envs import TurnInfo
from .agent import Player
from .chat.chat import Prompt
from .engines.base import Conversation
from .episode import Turn

if TYPE_CHECKING:
    from ..envs.pool.pool import EnvSession


def rename(text: str, renaming: Mapping[str, str]) -> str:
    """Exchange whole words of `text`, keeping a capital first letter, and capitals throughout.

    >>> rename("Go east. East is east.", {"east": "west", "west": "east"})
    'Go west. West is west.'
    >>> rename("view B0X7", {"b0x7": "b0q9"})
    'view B0Q9'
    """
    if not renaming:
        return text

    def swap(match: re.Match[str]) -> str:
        old = match.group()
        new = renaming.get(old.lower())
        if new is None:
            return old
        if len(old) > 1 and old.isupper():
            return new.upper()
        return new.capitalize() if old[0].isupper() else new

    return re.sub(r"\w+", swap, text)


class RenamedPlayer(Player):
    """Another player, who sees the world and acts in it under a renaming.

    The episode keeps the world's own words in actions and observations; tokens and text are as the
    player saw them.
    """

    def __init__(self, player: Player, renaming: Mapping[str, str]) -> None:
        self.player, self.renaming = player, dict(renaming)
        self.back = {new: old for old, new in renaming.items()}

    def begin(self, world: EnvSession, observation: str, info: TurnInfo) -> None:
        """Show the world under the renaming."""
        self.player.begin(world, rename(observation, self.renaming), self._renamed(info))

    async def move(self) -> Turn:
        """Ask the other player for its turn, and put its action into the world's words."""
        turn = await self.player.move()
        if turn.action is not None:
            turn.action = rename(turn.action, self.back)
        return turn

    def observe(self, observation: str, info: TurnInfo | None) -> None:
        """Show the answer under the renaming."""
        self.player.observe(
            rename(observation, self.renaming), None if info is None else self._renamed(info)
        )

    def _renamed(self, info: TurnInfo) -> TurnInfo:
        admissible = info["admissible_actions"]
        if admissible is None:
            return info
        return {
            **info,
            "admissible_actions": [rename(action, self.renaming) for action in admissible],
        }

    def closing(self) -> Prompt | None:
        """Ask the other player for its closing prompt."""
        return self.player.closing()

    @property
    def full(self) -> bool:
        """Tell whether the other player's context is full."""
        return self.player.full

    @property
    def expects(self) -> str:
        """Return the format that the other player expects."""
        return self.player.expects

    @property
    def conversation(self) -> Conversation | None:
        """Return the other player's conversation."""
        return self.player.conversation

    def close(self) -> None:
        """Close the other player's conversation."""
        self.player.close()
