"""TextWorld families as text environments: quest, coin, treasure, simple and cooking.

Each is a class with typed parameters; everything else is shared::

    env = turnrl.make("textworld/quest-v0", rooms=2, objects=3, quest_length=4)
    text, info = env.reset(options={"task": env.tasks("test")[0]})
    text, reward, terminated, truncated, info = env.step("open chest")

The games are made by TextWorld on first use and cached; `prepare` makes many at once. Success is
the game's own "won", never its end or its score. A won episode's rewards sum to 1, in steps where
the game gives points on the way.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal

from ...foundation.errors import UserError
from ..core import Outcome, TextEnv
from ..sanitise import META_VERBS, Grammar
from ..task import Split, Task
from .coin import COMPASS, TrainSeeds, held_out_seeds, route_of
from .generate import GameKey, generate
from .nouns import renamings
from .params import SEEDS_PER_SPLIT, CoinParams, check
from .world import World

SIZES: dict[Split, int] = {"train": 10_000, "valid": 200, "test": 200}
"""Tasks per split. Coin games may have fewer held-out routes than that."""
_UNSAFE = re.compile(r'[\[\]<>*,"]')
"""Brackets and stars could forge the traces and the end that are read from the text; a comma gives
orders to oneself, which would carry a denied verb past the grammar."""
_TEXTWORLD_VERBS = "print_state tw tw-print tw-extra-infos tw-trace-actions restrict enable disable"
_DENIED = META_VERBS | set(_TEXTWORLD_VERBS.split())
"""TextWorld adds verbs of its own, which print the whole state or change what the game reports."""


_RULES = """You are playing a text adventure. Answer with one command per turn, in plain words.
Commands: look, inventory, goal, go north, go south, go east, go west, examine X, take X, take X from Y, drop X, \
put X on Y, insert X into Y, open X, close X, unlock X with Y, lock X with Y, eat X."""


class TextWorldEnv(TextEnv):
    """What the five families share. Subclasses name their `family` and their parameters.

    Raises UserError for parameters that are unknown or out of range, and for games TextWorld cannot
    make.
    """

    family: ClassVar[str]
    grammar = Grammar(chaining=False, deny=frozenset(_DENIED), max_chars=128)
    instructions = _RULES
    symmetries: tuple[Mapping[str, str], ...] = COMPASS

    def __init__(
        self,
        *,
        max_turns: int | None = None,
        extras: Collection[str] = ("admissible_actions",),
        **params: Any,
    ) -> None:
        self.checked = check(self.family, params)
        super().__init__(max_turns=max_turns, extras=extras, **self.checked.model_dump())
        self._world: World | None = None
        self._steps_to_win = 0
        self._earned = 0.0

    def prepare(
        self, tasks: Sequence[Task], *, workers: int | None = None, progress: bool = True
    ) -> None:
        """Make the missing games of these tasks with `workers` processes (None: one per CPU)."""
        generate([self._key(task) for task in tasks], workers=workers, progress=progress)

    def expert_action(self) -> str | None:
        """The first command of TextWorld's plan from here; None once the game is over or beyond
        help.
        """
        if self._world is None or self._over:
            return None
        plan = self._world.plan()
        return plan[0] if plan else None

    def close(self) -> None:
        """Free the interpreter. The instance may be reset again."""
        if self._world is not None:
            self._world.close()
            self._world = None

    def _tasks(self, split: Split) -> Sequence[Task]:
        first = SEEDS_PER_SPLIT * list(SIZES).index(split)
        return self.seeded(range(first, first + SIZES[split]), split)

    def _key(self, task: Task) -> GameKey:
        if task.env.rpartition("/")[2].rpartition("-v")[0] != self.family:
            raise UserError(
                f"task '{task.id}' is not a textworld/{self.family} task: play it with"
                " turnrl.make_for(task)"
            )
        return GameKey(self.family, check(self.family, task.params).model_dump(), task.seed)

    def _begin(self, task: Task) -> Outcome:
        path = generate([self._key(task)], progress=False)[0]
        # Until it has the game there is no world: what failed to load must not be played.
        world, self._world = self._world, None
        if world is None:
            world = World(path)
        elif world.path != path:
            world.load(path)
        self._world = world
        text = self._world.start()
        self._earned = 0.0
        self._steps_to_win = len(self._world.plan()) if "progress" in self.extras else 0
        return Outcome(
            text,
            admissible=self._possible(),
            score=0.0,
            progress=self._progress(won=False, lost=False),
        )

    def _act(self, action: str) -> Outcome:
        assert self._world is not None
        if _UNSAFE.search(action):
            return Outcome(
                "Invalid action: use letters, digits, spaces and hyphens only.",
                valid=False,
                score=self._last.score,
                admissible=self._last.admissible,
                progress=self._last.progress,
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
            admissible=[] if over and self._wants("admissible_actions") else self._possible(),
            score=float(reply.score),
            progress=self._progress(won=reply.won, lost=reply.lost),
        )

    def _wants(self, extra: str) -> bool:
        return extra in self.extras

    def _possible(self) -> list[str] | None:
        assert self._world is not None
        return self._world.possible() if self._wants("admissible_actions") else None

    def _progress(self, *, won: bool, lost: bool) -> float | None:
        """Share of the initial plan that is done: 1 when won, 0 when lost or when no plan is left."""
        if not self._wants("progress"):
            return None
        assert self._world is not None
        if won or lost:
            return float(won)
        left = len(self._world.plan())
        return (
            max(0.0, (self._steps_to_win - left) / self._steps_to_win)
            if left and self._steps_to_win
            else 0.0
        )


class QuestEnv(TextWorldEnv):
    """A random house and one quest; the objective tells its steps in words. Papers write w2-o3-q4
    for the defaults.

    Args:
        rooms: rooms of the house (1 to 50).
        objects: things in it at least (1 to 100).
        quest_length: actions the quest takes (1 to 50).
    """

    family = "quest"
    symmetries = (*COMPASS, *renamings(56))

    def __init__(
        self, *, rooms: int = 2, objects: int = 3, quest_length: int = 4, **options: Any
    ) -> None:
        super().__init__(rooms=rooms, objects=objects, quest_length=quest_length, **options)


class CoinEnv(TextWorldEnv):
    """A chain of rooms with a coin at its end. Splits are disjoint in routes, not only in seeds.

    Args:
        level: 1 to 100 is the number of rooms to the coin; 101 to 150 and 201 to 233 repeat it with
            one and two dead ends per room.
    """

    family = "coin"
    instructions = _RULES.replace("eat X.", "eat X.\nFind the coin and take it: take coin.")

    def __init__(self, *, level: int = 5, **options: Any) -> None:
        super().__init__(level=level, **options)

    def _tasks(self, split: Split) -> Sequence[Task]:
        assert isinstance(self.checked, CoinParams)
        length = self.checked.length
        if split == "train":
            return self.seeded(TrainSeeds(length, SIZES[split]), split)
        seeds = held_out_seeds(length, split, SIZES[split])
        if not seeds:
            raise UserError(
                f"textworld/coin: level={self.checked.level} has no {split} routes, use level 4 or"
                " more"
            )
        return self.seeded(seeds, split)


class TreasureEnv(TextWorldEnv):
    """A maze with a thing to take and a thing that loses the game.

    Args:
        level: 1 to 10: 5 empty rooms; 11 to 20: 10 rooms with doors and containers. Harder with
            each level.
    """

    family = "treasure"

    def __init__(self, *, level: int = 1, **options: Any) -> None:
        super().__init__(level=level, **options)


class SimpleEnv(TextWorldEnv):
    """Leave the bedroom, find the food, put it on the stove: one house, places of key and foods
    vary.

    Args:
        rewards: 'dense' (a point per step of the walkthrough), 'balanced' (some) or 'sparse' (the
            last).
        goal: how much the opening tells: 'detailed', 'brief' or 'none'.
    """

    family = "simple"

    def __init__(
        self,
        *,
        rewards: Literal["dense", "balanced", "sparse"] = "dense",
        goal: Literal["detailed", "brief", "none"] = "detailed",
        **options: Any,
    ) -> None:
        super().__init__(rewards=rewards, goal=goal, **options)


class CookingEnv(TextWorldEnv):
    """Read the cookbook, gather and prepare the ingredients, make the meal and eat it. A wrong
    preparation loses.

    Args:
        recipe: ingredients (1 to 5).
        take: of these, how many must be found; the others are in the inventory.
        go: rooms (1, 6, 9 or 12).
        open: doors and containers start closed.
        cook: ingredients need cooking.
        cut: ingredients need cutting.
        drop: the inventory is limited.
    """

    family = "cooking"
    instructions = _RULES.replace(
        "eat X.",
        "eat X, cook X with Y, slice X with Y, dice X with Y, chop X with Y, prepare meal.\nRead"
        " the recipe with 'examine cookbook'. Fry on the stove, roast in the oven, grill on the"
        " BBQ, each only once. A wrong preparation or an eaten ingredient loses the game. Prepare"
        " the meal in the kitchen, then eat it.",
    )

    def __init__(
        self,
        *,
        recipe: int = 1,
        take: int = 1,
        go: Literal[1, 6, 9, 12] = 1,
        open: bool = False,
        cook: bool = False,
        cut: bool = False,
        drop: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            recipe=recipe, take=take, go=go, open=open, cook=cook, cut=cut, drop=drop, **options
        )


def route(task: Task) -> tuple[str, ...]:
    """Directions from the start to the coin of a coin task, without making its game. UserError for
    other families.
    """
    checked = check("coin", task.params)
    if not isinstance(checked, CoinParams) or not task.env.startswith("textworld/coin-"):
        raise UserError(f"task '{task.id}' has no route: only textworld/coin tasks do")
    return route_of(checked.length, task.seed)


__all__ = ["CoinEnv", "CookingEnv", "QuestEnv", "SimpleEnv", "TextWorldEnv", "TreasureEnv", "route"]
