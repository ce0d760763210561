"""scienceworld/task: the 30 tasks of ScienceWorld on the original simulator::

    env = turnrl.make("scienceworld/task-v0", task=["boil", "find-plant"])
    text, info = env.reset(options={"task": env.tasks("test")[0]})
    text, reward, terminated, truncated, info = env.step("open door to kitchen")

Every instance has a Java process of its own, from the first reset to `close`. Rewards are
differences of the score: a won episode's sum to 1, a failed one's to 0. Success is a score of 100.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from ...foundation.errors import UserError
from ..core import Outcome, TextEnv
from ..sanitise import Grammar
from ..task import Split, Task
from .game import Game, SimulatorReply
from .goals import reached
from .settings import ScienceSettings, electrical
from .splits import VariationTasks, table

_WON = 100
_UNMATCHED = ("No known action matches that input.", "Unknown action.")
_QUESTION = "Ambiguous request:"
_CHOICE = re.compile(r"^(\d+):\t", re.MULTILINE)
_RULES = """You do science experiments in a text world of rooms and things. Answer with one action \
per turn.
Actions, where X and Y are things you see: look around, look at X, look in X, inventory, task, \
open X, close X, go to PLACE, teleport to PLACE, pick up X, put down X, move X to Y, pour X in Y, \
dunk X in Y, mix X, activate X, deactivate X, use X on Y, read X, eat X, flush X, connect X to Y, \
disconnect X, focus on X, wait, wait1, reset task.
wait lets 10 steps pass, wait1 one. Focus only on what the task names: focusing on a wrong thing \
fails the task.
If you are asked which action you meant, answer with its number."""
_TELEPORT, _CONNECT = "teleport to PLACE, ", "connect X to Y, disconnect X, "


class ScienceWorldEnv(TextEnv):
    """Tasks of elementary science: change the state of matter, grow plants, build circuits, find
    animals.

    Raises UserError where Java is missing or too old.
    """

    Settings = ScienceSettings
    settings: ScienceSettings
    instructions = _RULES
    grammar = Grammar(chaining=True, deny=frozenset())
    reward_range = (-1.0, 1.0)
    in_process = False
    any_params: ClassVar[bool] = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._game: Game | None = None
        self._gold: tuple[Task, list[str]] | None = None
        self._followed: int | None = 0
        """How many actions of the gold path have been played; None off the path."""
        self._reached: list[str] = []
        self._given = 0
        """The score before the first action."""
        self._earned = 0.0
        """The sum of the rewards so far."""
        self._played: list[tuple[str, bool]] = []
        """Actions so far, and whether nothing happened during them."""
        self._asked = False
        """The simulator waits for a number."""

    def expert_action(self) -> str | None:
        """Return the next action of upstream's gold path, or None once the episode has left it.

        Actions during which nothing happens (looking, the inventory, what is not understood) do not
        leave it.
        """
        if self._over or self._game is None or self._followed is None or self.current is None:
            return None
        if self._gold is None or self._gold[0] != self.current:
            self._gold = self.current, self._game.gold()
            self._followed = self._along(self._played)
        path = self._gold[1]
        return (
            path[self._followed]
            if self._followed is not None and self._followed < len(path)
            else None
        )

    def close(self) -> None:
        """End the Java process. The instance may be reset again."""
        game, self._game = self._game, None
        if game is not None:
            game.close()

    def _tasks(self, split: Split) -> Sequence[Task]:
        return VariationTasks(self.id, self.settings, split)

    def _begin(self, task: Task) -> Outcome:
        name, simplification = self._wanted(task)
        first = self._load(name, task.seed, simplification)
        assert self._game is not None
        game, self._given, self._earned = self._game, first.score, 0.0
        self.instructions = _instructions(name, simplification)
        self._followed, self._played, self._asked = 0, [], False
        self._reached = reached(game.goals())
        return Outcome(
            f"{game.description()}\n\n{first.text.strip()}",
            admissible=partial(self._admissible, first.text),
            score=float(first.score),
            progress=first.score / _WON,
            milestones=self._reached,
        )

    def _load(self, *wanted: Any) -> SimulatorReply:
        # Until it is loaded there is no game: one that died or failed is not tried again.
        game, self._game = self._game, None
        if game is not None:
            try:
                first = game.load(*wanted)
            except (
                RuntimeError
            ):  # it died since the last episode, and this one can have a new process
                game.close()
            else:
                self._game = game
                return first
        game = Game(self.settings.heap_mb)
        first, self._game = game.load(*wanted), game
        return first

    def _wanted(self, task: Task) -> tuple[str, str]:
        settings = self.settings.of_task(task)
        if not isinstance(settings.task, str):
            raise UserError(
                f"task '{task.id}' must name one of the 30 tasks in its parameter 'task'"
            )
        count = sum(len(variations) for variations in table()[settings.task].values())
        if task.seed >= count:
            raise UserError(
                f"task '{task.id}': {settings.task} has {count} variations, counted from 0"
            )
        return settings.task, settings.simplification

    def _act(self, action: str) -> Outcome:
        assert self._game is not None
        reply = self._game.step(action)
        same = self._follow(action, reply)
        won, lost = reply.score >= _WON, reply.score < 0
        over = won or lost or reply.completed
        for name in reached(self._game.goals()):
            if name not in self._reached:
                self._reached.append(name)
        # Listing costs many steps' time, and where nothing happened it would list the same.
        again = self.last_outcome.admissible if same else partial(self._admissible, reply.text)
        earned = 0.0 if lost else (reply.score - self._given) / (_WON - self._given)
        reward, self._earned = earned - self._earned, earned
        return Outcome(
            reply.text.strip(),
            reward=reward,
            ended=over,
            success=won,
            valid=not reply.text.startswith(_UNMATCHED),
            admissible=[] if over else again,
            score=float(reply.score),
            progress=max(reply.score, 0) / _WON,
            milestones=self._reached,
        )

    def _admissible(self, text: str) -> list[str]:
        assert self._game is not None
        return _CHOICE.findall(text) if text.startswith(_QUESTION) else self._game.possible()

    def _follow(self, action: str, reply: SimulatorReply) -> bool:
        """Keep account of the gold path; return True if the world is as it was before."""
        # A question is something happening: what is said next means something else.
        asks = reply.text.startswith(_QUESTION)
        same = reply.idle and not asks and not self._asked
        self._played.append((action, same))
        self._asked = asks
        if self._gold is not None and self._gold[0] == self.current and self._followed is not None:
            self._followed = self._along(self._played[-1:], self._followed)
        return same

    def _along(self, played: Sequence[tuple[str, bool]], done: int = 0) -> int | None:
        """Count how far along the gold path these actions lead from its action number `done`."""
        assert self._gold is not None
        path = self._gold[1]
        for action, idle in played:
            if done < len(path) and action == path[done]:
                done += 1
            elif not idle:
                return None
        return done


def _instructions(name: str, simplification: str) -> str:
    """Write the rules without the actions that a task does not have."""
    words = set(simplification.split(","))
    rules = _RULES if words & {"easy", "teleportAction"} else _RULES.replace(_TELEPORT, "")
    wired = electrical(name) or not words & {"easy", "noElectricalAction"}
    return rules if wired else rules.replace(_CONNECT, "")
