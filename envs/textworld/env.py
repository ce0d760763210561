"""TextWorld families as text environments: quest, coin, treasure, simple and cooking.

Each is a class with settings of its own; everything else is shared::

    env = turnrl.make("textworld/quest-v0", rooms=2, objects=3, quest_length=4)
    text, info = env.reset(options={"task": env.tasks("test")[0]})
    text, reward, terminated, truncated, info = env.step("open chest")

The games are made by TextWorld on first use and cached; `prepare` makes many at once. Success is
the game's own "won", never its end or its score. A won episode's rewards sum to 1, in steps where
the game gives points on the way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...foundation.errors import UserError
from ..core import Outcome, TextEnv
from ..sanitise import META_VERBS, Grammar
from ..task import Split, Task
from .coin import COMPASS, TrainSeeds, held_out_seeds, route_of
from .generate import GameKey, generate
from .nouns import renamings
from .settings import (
    CoinSettings,
    CookingSettings,
    GameSettings,
    QuestSettings,
    SimpleSettings,
    TreasureSettings,
)
from .world import GameWorld

_UNSAFE = re.compile(r'[\[\]<>*,"]')
"""Brackets and stars could forge the traces and the end that are read from the text; a comma gives
orders to oneself, which would carry a denied verb past the grammar."""
_TEXTWORLD_VERBS = "print_state tw tw-print tw-extra-infos tw-trace-actions restrict enable disable"
_DENIED = META_VERBS | set(_TEXTWORLD_VERBS.split())
"""TextWorld adds verbs of its own, which print the whole state or change what the game reports."""


_RULES = """You are playing a text adventure. Answer with one command per turn, in plain words.
Commands: look, inventory, goal, go north, go south, go east, go west, examine X, take X, take X \
from Y, drop X, put X on Y, insert X into Y, open X, close X, unlock X with Y, lock X with Y, eat \
X."""


class TextWorldEnv(TextEnv):
    """Base of the five families of TextWorld games.

    Raises UserError for games that TextWorld cannot make.
    """

    settings: GameSettings
    # Coin games may have fewer held-out routes than that.
    sizes = {"train": 10_000, "valid": 200, "test": 200}  # noqa: RUF012
    grammar = Grammar(chaining=False, deny=frozenset(_DENIED), max_chars=128)
    instructions = _RULES
    symmetries: tuple[Mapping[str, str], ...] = COMPASS

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._world: GameWorld | None = None
        self._steps_to_win: int | None = None
        self._earned = 0.0

    def prepare(
        self, tasks: Sequence[Task], *, workers: int | None = None, progress: bool = True
    ) -> None:
        """Make the missing games of these tasks with `workers` processes (None: one per CPU)."""
        generate([self._key(task) for task in tasks], workers=workers, progress=progress)

    def expert_action(self) -> str | None:
        """Return the first command of TextWorld's plan from here.

        None once the game is over or beyond help.
        """
        if self._world is None or self._over:
            return None
        plan = self._world.plan()
        return plan[0] if plan else None

    def close(self) -> None:
        """Free the game's interpreter. The instance may be reset again."""
        if self._world is not None:
            self._world.close()
            self._world = None

    def _key(self, task: Task) -> GameKey:
        settings = self.settings.of_task(self.own(task))
        return GameKey(settings.family, settings.params(), task.seed)

    def _begin(self, task: Task) -> Outcome:
        path = generate([self._key(task)], progress=False)[0]
        # Until it has the game there is no world: what failed to load must not be played.
        world, self._world = self._world, None
        if world is None:
            world = GameWorld(path)
        elif world.path != path:
            world.load(path)
        self._world = world
        text = self._world.start()
        self._earned = 0.0
        self._steps_to_win = None
        return Outcome(
            text, admissible=self._world.possible, score=0.0, progress=self._share_of_the_plan
        )

    def _act(self, action: str) -> Outcome:
        assert self._world is not None
        if _UNSAFE.search(action):
            return Outcome(
                "Invalid action: use letters, digits, spaces and hyphens only.",
                valid=False,
                score=self.last_outcome.score,
                admissible=self.last_outcome.admissible,
                progress=self.last_outcome.progress,
            )
        reply = self._world.send(action)
        # A won game has all its points; saying so keeps the sum at exactly 1 whatever the scores
        # were.
        earned = 1.0 if reply.won else reply.score / max(self._world.max_score, 1)
        reward, self._earned = earned - self._earned, earned
        over = reply.won or reply.lost
        return Outcome(
            reply.text,
            reward=reward,
            ended=over,
            success=reply.won,
            valid=reply.understood or over,
            admissible=[] if over else self._world.possible,
            score=float(reply.score),
            progress=float(reply.won) if over else self._share_of_the_plan,
        )

    def _share_of_the_plan(self) -> float:
        """Compute the share of the initial plan that is done: 0 where no plan is left."""
        assert self._world is not None
        left = len(self._world.plan())
        if self._steps_to_win is None:
            self._steps_to_win = left
        done = self._steps_to_win - left
        return max(0.0, done / self._steps_to_win) if left and self._steps_to_win else 0.0


class QuestEnv(TextWorldEnv):
    """A random house and one quest; the objective tells its steps in words. Papers write w2-o3-q4
    for the defaults.
    """

    Settings = QuestSettings
    symmetries = (*COMPASS, *renamings(56))


class CoinEnv(TextWorldEnv):
    """A chain of rooms with a coin at its end. Splits are disjoint in routes, not only in seeds."""

    Settings = CoinSettings
    settings: CoinSettings
    instructions = _RULES.replace("eat X.", "eat X.\nFind the coin and take it: take coin.")

    def _tasks(self, split: Split) -> Sequence[Task]:
        length, size = self.settings.length, self.sizes[split]
        if split == "train":
            return self.seeded(TrainSeeds(length, size), split)
        seeds = held_out_seeds(length, split, size)
        if not seeds:
            raise UserError(
                f"textworld/coin: level={self.settings.level} has no {split} routes, use level 4 or"
                " more"
            )
        return self.seeded(seeds, split)


class TreasureEnv(TextWorldEnv):
    """A maze with a thing to take and a thing that loses the game; harder with each level."""

    Settings = TreasureSettings


class SimpleEnv(TextWorldEnv):
    """Leave the bedroom, find the food, put it on the stove: one house, places of key and foods
    vary.
    """

    Settings = SimpleSettings


class CookingEnv(TextWorldEnv):
    """Read the cookbook, gather and prepare the ingredients, make the meal and eat it. A wrong
    preparation loses.
    """

    Settings = CookingSettings
    instructions = _RULES.replace(
        "eat X.",
        "eat X, cook X with Y, slice X with Y, dice X with Y, chop X with Y, prepare meal.\nRead"
        " the recipe with 'examine cookbook'. Fry on the stove, roast in the oven, grill on the"
        " BBQ, each only once. A wrong preparation or an eaten ingredient loses the game. Prepare"
        " the meal in the kitchen, then eat it.",
    )


def route(task: Task) -> tuple[str, ...]:
    """Return the directions from the start to the coin of a coin task, without making its game.

    Raises UserError for other families.
    """
    if not task.env.startswith("textworld/coin-"):
        raise UserError(f"task '{task.id}' has no route: only textworld/coin tasks do")
    return route_of(CoinSettings.of_task(task).length, task.seed)


__all__ = ["CoinEnv", "CookingEnv", "QuestEnv", "SimpleEnv", "TextWorldEnv", "TreasureEnv", "route"]
