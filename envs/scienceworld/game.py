"""One game of ScienceWorld in a Java process of its own, with its randomness held still::

    game = Game(heap_mb=384)
    reply = game.load("boil", 0, "easy")  # the first look around
    reply = game.step("open door to kitchen")  # text, score up to 100, completed, idle
    game.possible(); game.goals(); game.gold()  # none of them changes what happens next

The simulator draws from one unseeded generator, at loading (books, pictures, the order of things)
and while playing (bees and other animals). It is seeded here from the task, and whatever is only
asked puts the generator back. With the hash codes that `java` fixes, a task and a list of actions
then give the same words in every process.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass

from .java import Argument, Java, Ref

_INTERFACE = "scienceworld.runtime.pythonapi.PythonInterface"
_ANYWHERE = "teleport to "
"""The action whose object may be anywhere."""
_SCRAMBLE = 0x5DEECE66D
"""java.util.Random: setSeed makes this exclusive-or of its argument the state."""


@dataclass(frozen=True)
class SimulatorReply:
    """The answer of the simulator to an action."""

    text: str
    score: int
    """The simulator's, rounded as its own Python class does; below zero after a failure."""
    completed: bool
    idle: bool
    """True if nothing happened: no time passed and no random number was drawn."""


class Game:
    """A Java process and the game in it. `load` before anything else; `close` ends the process.

    Args:
        heap_mb: most MiB that the process may use for its objects.

    Raises RuntimeError from every call once the process has died.
    """

    def __init__(self, heap_mb: int) -> None:
        self.java = Java(heap_mb)
        self._play = self.java.new(_INTERFACE)
        self._oracle: Ref | None = None
        self._random = self.java.static("scala.util.Random$", "MODULE$")
        self._generator = Ref(self.java.call(self._random, "self"))
        self._state = self._open_random()
        self._task: tuple[str, int, str] = ("", 0, "")
        self._moves = self._seen = 0

    def close(self) -> None:
        """End the Java process; the object is of no use afterwards."""
        self.java.close()

    def load(self, name: str, variation: int, simplification: str) -> SimulatorReply:
        """Start a task from its beginning and look around, as upstream's ``reset`` does.

        Some tasks pay for the look.
        """
        self._task = (name, variation, simplification)
        self._load(self._play, gold=False)
        return self.step("look around")

    def step(self, action: str) -> SimulatorReply:
        """Take an action by upstream's call, without the five others that fill upstream's info."""
        text: str = self.java.call(self._play, "step", action)
        score = round(100 * self.java.call(self._play, "getScore"))
        completed: bool = self.java.call(self._play, "getCompleted")
        before = self._moves, self._seen
        self._moves, self._seen = self._clock()
        return SimulatorReply(text, score, completed, idle=before == (self._moves, self._seen))

    def description(self) -> str:
        """Return the words in which the task is given."""
        text: str = self.java.call(self._play, "getTaskDescription")
        return text.strip()

    def possible(self) -> list[str]:
        """List every action with objects that would be valid and understood now, each once.

        Its own list (https://github.com/allenai/ScienceWorld, `AgentInterface.scala`) has things in
        closed containers too, and its parser knows none of them: in a kitchen nearly half of the
        list is refused.
        """
        text: str = self.java.call(self._play, "getValidActionObjectCombinationsJSON")
        near = self._within_reach()
        self._put_back()
        items = json.loads(text)["validActions"]
        return list(
            dict.fromkeys(
                item["action"]
                for item in items
                if near.issuperset(item["obj_ids"]) or item["action"].startswith(_ANYWHERE)
            )
        )

    def goals(self) -> str:
        """Return the table of sub-goals as text."""
        text: str = self.java.call(self._play, "getGoalProgressStr")
        return text

    def gold(self) -> list[str]:
        """List actions that win this very game from its beginning, played by upstream's agent."""
        if self._oracle is None:
            self._oracle = self.java.new(_INTERFACE)
        self._load(self._oracle, gold=True)
        actions = self.java.lines(self._oracle, "getGoldActionSequence")
        self._put_back()
        return actions

    @staticmethod
    def seed_of(name: str, variation: int, simplification: str) -> int:
        """Return the seed that the simulator's generator gets before the task is loaded."""
        return zlib.crc32(f"{name} {variation} {simplification}".encode())

    def _within_reach(self) -> set[int]:
        """Collect the numbers of the things that the parser looks among.

        Those are in the room and with the agent, unless shut away.
        """
        java = self.java
        interface = Ref(java.call(Ref(java.call(self._play, "agentInterface")), "get"))
        parser, agent = Ref(java.call(interface, "inputParser")), Ref(java.call(interface, "agent"))
        room = Ref(java.call(Ref(java.call(agent, "getContainer")), "get"))
        numbers: set[int] = set()
        for root in (room, agent):
            names = Ref(
                java.call(parser, "getAllUniqueReferentsLUT", Argument(f"r{root}\n"), True, False)
            )
            text: str = java.call(Ref(java.call(names, "keys")), "mkString", ",")
            numbers.update(int(number) for number in text.split(",") if number)
        return numbers

    def _load(self, game: Ref, *, gold: bool) -> None:
        name, variation, simplification = self._task
        self._seed(self.seed_of(name, variation, simplification))
        self.java.call(game, "load", name, variation, simplification, gold)

    def _clock(self) -> tuple[int, int]:
        """Return the simulator's count of moves, and where its random numbers are."""
        seen: int = self.java.call(self._state, "get", Argument(f"r{self._generator}\n"))
        return self.java.call(self._play, "getNumMoves"), seen

    def _put_back(self) -> None:
        self._seed(self._seen ^ _SCRAMBLE)

    def _seed(self, seed: int) -> None:
        self.java.call(self._random, "setSeed", Argument(f"L{seed}\n"))

    def _open_random(self) -> Ref:
        """Find the field of Java's generator that holds its state."""
        java = self.java
        field = Ref(
            java.call(Ref(java.call(self._generator, "getClass")), "getDeclaredField", "seed")
        )
        java.call(field, "setAccessible", True)
        return field


def variations(heap_mb: int) -> dict[str, dict[str, list[int]]]:
    """Ask for upstream's variations by task name and split, in a process of its own.

    That takes about two seconds.
    """
    java = Java(heap_mb)
    try:
        game = java.new(_INTERFACE)
        found = {}
        for name in java.lines(game, "getTaskNames"):
            # What loading the task does first; the rest of loading is not needed to know its
            # splits.
            java.call(game, "taskStr_$eq", name)
            lists = [
                json.loads(java.call(Ref(java.call(game, f"getVariations{split}")), "toString"))
                for split in ("Train", "Dev", "Test")
            ]
            found[name] = dict(zip(("train", "valid", "test"), lists, strict=True))
    finally:
        java.close()
    return found
