"""Household: find things in a room, clean, heat or cool them, and put them where the task says::

    env = turnrl.make("household/home-v0")
    text, info = env.reset(options={"task": env.tasks("test")[0]})  # Your task is to: ...
    text, reward, terminated, truncated, info = env.step("go to cabinet 3")

ALFWorld's engine, domain and grammar, on games generated here in the 120 floor plans that come with
it. Results on them are household results and never ALFWorld's: those are played with
alfworld/text-v0 (`official.py`).
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..core import Outcome, TextEnv
from ..sanitise import Grammar
from ..task import SeededTasks, Split, Task
from .compiled_format import Compiled
from .engine import HouseholdEngine
from .games import generated, opened
from .goal import HouseholdGoal, Move
from .renamings import names, renamings
from .settings import HomeSettings, HouseSettings
from .source import TYPES, package

_ORDER = (
    "gotolocation",
    "openobject",
    "closeobject",
    "pickupobject",
    "putobject",
    "cleanobject",
    "heatobject",
    "coolobject",
    "toggleobject",
    "examinereceptacle",
    "examineobject",
    "look",
    "inventory",
)
_WORDS = {"o": "OBJECT", "r": "RECEPTACLE"}


def explained(said: Mapping[str, str]) -> str:
    """Write what a player must know, with the commands as this grammar writes them.

    `said` maps actions of the domain to their templates.
    """
    forms = [
        re.sub(r"\[?\{(\w+)[^}]*\}\]?", lambda found: _WORDS.get(found[1], "OBJECT"), said[name])
        for name in _ORDER
        if name in said
    ]
    return (
        "You are in a room and have a task to do. Answer with one command per turn, with names as"
        f" they are shown, such as 'cabinet 3'.\nCommands: {', '.join(dict.fromkeys(forms))},"
        " help.\nYou can hold one thing at a time. What is closed must be opened before you can"
        " see, take or put something in it. Hold a thing and go to a sinkbasin to clean it, to a"
        " microwave to heat it, to a fridge to cool it. 'Nothing happens.' means that the command"
        " is not possible here."
    )


def grammar_commands(grammar: str) -> dict[str, str]:
    """Find the command of every action of the domain (lower case) in a .twl2 grammar."""
    return {
        name.lower(): said
        for name, said in re.findall(r'action (\w+) \{\s*template :: "(.*?)";', grammar)
    }


class HouseEnv(TextEnv):
    """Base of all household worlds: it plays a compiled game."""

    Settings = HouseSettings
    settings: HouseSettings
    # No command of the game does more than one thing or anything outside it, and each must match to
    # the letter.
    grammar = Grammar(chaining=True, deny=frozenset(), max_chars=128)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._engine = HouseholdEngine()
        self._seen: set[str] = set()
        self._goal: HouseholdGoal | None = None
        self._reached: dict[str, None] = {}
        self._way: list[Move] | None = None
        self._planned = False
        self._length: int | None = None

    @abstractmethod
    def _game(self, task: Task) -> Compiled:
        """Return the compiled game of a task."""

    def expert_action(self) -> str | None:
        """Return the next command of the shortest way by the rules of `goal`; None at the end.

        With `expert="search"`, of the shortest way with what was seen, or of the search for what
        was not.
        """
        if self.current is None or self._over or self._goal is None:
            return None
        if self.settings.expert == "search":
            facts = self._engine.facts
            moves = self._goal.moves(facts, self._seen) or self._goal.search(facts, self._seen)
        else:
            moves = self._moves()
        return self._command(moves[0]) if moves else None

    def close(self) -> None:
        """Give the engine's copy of the library back. The instance may be reset again."""
        self._engine.close()

    def _begin(self, task: Task) -> Outcome:
        game = self._game(task)
        # Without a goal until the game stands: no expert of the last game answers for this one.
        self._goal = None
        self._engine.load(game)
        text = self._engine.start()
        self._goal, self._reached, self._planned, self._seen = HouseholdGoal(game), {}, False, set()
        self.instructions = explained({name: action.said for name, action in game.actions.items()})
        self._length = None
        return self._outcome(text)

    def _act(self, action: str) -> Outcome:
        # The engine wants its own words to the letter. They are all lower case, with single blanks.
        command = " ".join(action.lower().split())
        if command not in self._engine.operators:
            command = command.removesuffix(".").rstrip()
        reply = self._engine.send(command)
        self._planned = self._planned and not reply.done
        return self._outcome(reply.text, valid=reply.done)

    def _outcome(self, text: str, *, valid: bool = True) -> Outcome:
        assert self._goal is not None
        won = self._engine.won
        self._reached.update(dict.fromkeys(self._goal.milestones(self._engine.facts, won)))
        self._seen |= self._goal.in_sight(self._engine.facts)
        # A won game needs its copy of the library no more: another instance may have it.
        if won:
            self._engine.close()
        return Outcome(
            text,
            reward=float(won),
            ended=won,
            success=won,
            valid=valid,
            score=float(won),
            admissible=[] if won else self._engine.commands,
            progress=1.0 if won else self._progress,
            milestones=list(self._reached),
        )

    def _progress(self) -> float:
        """Compute the share of the way from the start that is behind.

        0 where the way is no shorter, or none is known.
        """
        moves = self._moves()
        if self._length is None:
            self._length = len(moves or [None])
        return max(0.0, 1 - len(moves) / self._length) if moves else 0.0

    def _moves(self) -> list[Move] | None:
        if not self._planned:
            assert self._goal is not None
            self._way, self._planned = self._goal.moves(self._engine.facts), True
        return self._way

    def _command(self, move: Move) -> str | None:
        """Find the command for a move, in the words of this game's grammar."""
        for command, (_, _, operator) in self._engine.operators.items():
            if operator.name == move.name:
                named = dict(zip(self._parameters(move.name), operator.arguments, strict=False))
                if named.get("r", move.r) == move.r and named.get("o", move.o) == move.o:
                    return command
        return None

    def _parameters(self, name: str) -> tuple[str, ...]:
        assert self._engine.game is not None
        return self._engine.game.actions[name].parameters


class _ByType(SeededTasks):
    """Tasks whose parameters name the one task type that each is of, so that success can be counted
    by type.
    """

    def __init__(
        self,
        env: str,
        params: Mapping[str, Any],
        types: Sequence[str],
        split: Split,
        seeds: Sequence[int],
    ) -> None:
        super().__init__(env, dict(params), split, seeds)
        self._types = types

    def _at(self, index: int) -> Task:
        task = super()._at(index)
        return task.model_copy(
            update={"params": {**task.params, "types": [self._types[task.seed % len(self._types)]]}}
        )


class GeneratedEnv(HouseEnv):
    """Base of the worlds of generated games."""

    # As many as the official ones have.
    sizes = {"train": 3553, "valid": 140, "test": 134}  # noqa: RUF012

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.instructions = explained(grammar_commands(package().grammar))
        self.symmetries = renamings()

    @property
    def codes(self) -> Sequence[str]:
        """List the names of all kinds of things and receptacles, without their numbers."""
        return names()

    def prepare(
        self, tasks: Sequence[Task], *, workers: int | None = None, progress: bool = True
    ) -> None:
        """Make the missing games of these tasks with `workers` processes (None: one per CPU)."""
        generated([self._key(task) for task in tasks], workers=workers, progress=progress)

    def _game(self, task: Task) -> Compiled:
        return opened(generated([self._key(task)])[0] / "compiled.json.gz")

    @abstractmethod
    def _key(self, task: Task) -> tuple[str, int]:
        """Return the task type and the seed of a task."""


class HomeEnv(GeneratedEnv):
    """Generated games of several task types, evenly mixed; each Task names the one it is of."""

    Settings = HomeSettings
    settings: HomeSettings

    def task(self, seed: int, split: Split = "train") -> Task:
        """Make the Task of a seed; its parameters name its task type."""
        return self.seeded([seed], split)[0]

    def seeded(self, seeds: Sequence[int], split: Split) -> Sequence[Task]:
        """List the tasks with these seeds, made when needed; types follow each other by seed."""
        return _ByType(self.id, self.params, self.settings.chosen, split, seeds)

    def _key(self, task: Task) -> tuple[str, int]:
        types = self.settings.of_task(self.own(task)).chosen
        return types[task.seed % len(types)], task.seed


class TypeEnv(GeneratedEnv):
    """Generated games of one task type. Subclasses name it."""

    kind: ClassVar[str]

    def _key(self, task: Task) -> tuple[str, int]:
        return self.kind, self.own(task).seed


class PlaceEnv(TypeEnv):
    """Put a thing somewhere."""

    kind = "place"


class LightEnv(TypeEnv):
    """Look at a thing under a lamp."""

    kind = "light"


class CleanEnv(TypeEnv):
    """Clean a thing and put it somewhere."""

    kind = "clean"


class HeatEnv(TypeEnv):
    """Heat a thing and put it somewhere."""

    kind = "heat"


class CoolEnv(TypeEnv):
    """Cool a thing and put it somewhere."""

    kind = "cool"


class TwoEnv(TypeEnv):
    """Put two things of a kind in the same place."""

    kind = "two"


assert set(TYPES) == {env.kind for env in TypeEnv.__subclasses__()}
