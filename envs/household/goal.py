"""The aim of a game, its distance, and the next good action, by rules over facts::

    goal = HouseholdGoal(game)  # a Compiled game
    goal.moves(facts)  # a way to win: [Move("gotolocation", r="fridge_bar_..."), ...]
    goal.search(facts, seen)  # or the way to where it may be, for who does not know
    goal.milestones(facts, won=False)  # {'held', 'cooled'}

All six task types are: put down what is in the way, fetch a thing, perhaps treat it, bring it
somewhere. The rules try every thing, appliance and receptacle that could serve and take the
shortest way, so they work from any state.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .source import APPLIANCES

if TYPE_CHECKING:
    from .compiled_format import Compiled
    from .engine import HouseholdFacts

_MARKS = (
    ("istoggled", "light"),
    ("isclean", "clean"),
    ("ishot", "heat"),
    ("iscool", "cool"),
    ("?o2", "two"),
)
_FLAGS = {"clean": "isclean object", "heat": "ishot object", "cool": "iscool object"}
_DONE = {"clean": "cleaned", "heat": "heated", "cool": "cooled"}


def read_goal(problem: str) -> dict[str, str]:
    """Read the goal of a PDDL problem: task type, type of target, type of receptacle (or lamp).

    The task type is our short name, the others are in lower case.

    Raises ValueError for a goal that is none of the six task types.
    """
    goal = problem.lower().partition("(:goal")[2]
    things = dict(re.findall(r"\(objecttype \?(\w+) (\w+)type\)", goal))
    places = re.findall(r"\(receptacletype \?\w+ (\w+)type\)", goal)
    kind = next((kind for mark, kind in _MARKS if mark in goal), "place")
    target, place = (
        things.get("o", things.get("o1")),
        things.get("ot") if kind == "light" else "".join(places[:1]),
    )
    if not target or not place or "issliced" in goal or "inreceptacleobject" in goal:
        raise ValueError("its goal is none of the six task types")
    return {"kind": kind, "target": target, "parent": place}


def _listed(name: str) -> tuple[str, int]:
    """Return the key that sorts names of receptacles as the opening lists them.

    'cabinet 10' comes before 'cabinet 2', and both before 'drawer 3'.
    """
    kind, _, number = name.strip().rpartition(" ")
    return kind, -int(number)


@dataclass(frozen=True, slots=True)
class Move:
    """An action of the domain and those of its arguments that matter, by the names of its
    parameters.
    """

    name: str
    r: str = ""
    o: str = ""


@dataclass
class _Walk:
    """A way through the room as it is written down, and where it leads."""

    goal: HouseholdGoal
    at: str
    opened: set[str]
    moves: list[Move] = field(default_factory=list)

    def to(self, receptacle: str) -> _Walk:
        if self.at != self.goal.places[receptacle]:
            self.at = self.goal.places[receptacle]
            self.moves.append(Move("gotolocation", r=receptacle))
        return self

    def act(self, name: str, thing: str, receptacle: str, *, inside: bool = False) -> _Walk:
        """Go to a receptacle, open it if it must be open, and do an action there."""
        self.to(receptacle)
        if inside and receptacle in self.goal.openable and receptacle not in self.opened:
            self.opened.add(receptacle)
            self.moves.append(Move("openobject", r=receptacle))
        self.moves.append(Move(name, r=receptacle, o=thing))
        return self

    def copy(self) -> _Walk:
        return _Walk(self.goal, self.at, set(self.opened), list(self.moves))


class HouseholdGoal:
    """The goal of a game and what never changes in its room."""

    def __init__(self, game: Compiled) -> None:
        def facts(key: str) -> list[tuple[str, ...]]:
            return sorted(game.facts.get(key, []))

        self.kind, target, parent = game.goal["kind"], game.goal["target"], game.goal["parent"]
        self.places: dict[str, str] = dict(facts("receptacleatlocation receptacle location"))  # type: ignore[arg-type]
        self._order = {place: _listed(game.entities[place].name) for place in self.places}
        self.openable = {receptacle for (receptacle,) in facts("openable receptacle")}
        kinds: dict[str, str] = dict(facts("receptacletype receptacle rtype"))  # type: ignore[arg-type]
        self._type: dict[str, str] = dict(facts("objecttype object otype"))  # type: ignore[arg-type]
        self.targets = [thing for thing, kind in self._type.items() if kind == f"{target}type"]
        self.lamps = [thing for thing, kind in self._type.items() if kind == f"{parent}type"]
        self.goals = [place for place in self.places if kinds[place] == f"{parent}type"]
        appliance = f"{APPLIANCES.get(self.kind, '')}type".lower()
        self.appliances = [place for place in self.places if kinds[place] == appliance]
        fits = set(facts("cancontain rtype otype"))
        self._accept: dict[str, list[str]] = {
            thing: [place for place in self.places if (kinds[place], kind) in fits]
            for thing, kind in self._type.items()
        }

    # -- how far -----------------------------------------------------------------------------------

    def milestones(self, facts: HouseholdFacts, won: bool) -> Iterator[str]:
        """Yield the sub-goals that are true now, in the order in which one reaches them."""
        held, inside = self._held(facts), self._inside(facts)
        if held in self.targets:
            yield "held"
        if self.kind in _FLAGS and any(
            facts.holds(_FLAGS[self.kind], thing) for thing in self.targets
        ):
            yield _DONE[self.kind]
        if self.kind == "light" and any(
            facts.holds("istoggled object", lamp) for lamp in self.lamps
        ):
            yield "lamp on"
        if self.kind == "two" and any(inside.get(thing) in self.goals for thing in self.targets):
            yield "one placed"
        goals = (
            [inside[lamp] for lamp in self.lamps if lamp in inside]
            if self.kind == "light"
            else self.goals
        )
        if (
            held in self.targets
            and self._ready(facts, held)
            and self._at(facts) in {self.places[r] for r in goals}
        ):
            yield "at lamp" if self.kind == "light" else "at receptacle"
        if won:
            yield "done"

    def moves(
        self, facts: HouseholdFacts, seen: Collection[str] | None = None
    ) -> list[Move] | None:
        """Find the shortest way to win by the rules; None if there is none (or the game is won).

        With `seen` only what is in those receptacles is known.
        """
        opened = {receptacle for (receptacle,) in facts.of("opened receptacle")}
        start, held = _Walk(self, self._at(facts), opened), self._held(facts)
        starts: Iterable[_Walk] = [start]
        if held and held not in self.targets:
            drops = self._drops(self._inside(facts, seen), facts, held)
            starts = [start.copy().act("putobject", held, place, inside=True) for place in drops]
            held = ""
        best: list[Move] | None = None
        for walk in starts:
            for way in self._ways(walk, facts, self._inside(facts, seen), held):
                if best is None or len(way.moves) < len(best):
                    best = way.moves
        return best or None

    def search(self, facts: HouseholdFacts, seen: Collection[str]) -> list[Move] | None:
        """Find the way into the next receptacle that was not seen, or first to a target that was.

        None if all were seen.

        First those that may hold what is missing; of these, those that need not be opened; in the
        order of the text.
        """
        opened = {receptacle for (receptacle,) in facts.of("opened receptacle")}
        walk, held, inside = (
            _Walk(self, self._at(facts), opened),
            self._held(facts),
            self._inside(facts, seen),
        )
        known = [thing for thing in self.targets if thing in inside]
        if known and not held and self.kind == "light":
            return walk.act("pickupobject", known[0], inside[known[0]], inside=True).moves
        wanted = self.lamps if held in self.targets and self.kind == "light" else self.targets
        likely = {
            place
            for thing in wanted
            if thing not in (*inside, held)
            for place in self._accept[thing]
        }
        places = likely.difference(seen) or set(self.places).difference(seen)
        if not places:
            return None
        place = min(places, key=lambda place: (place in self.openable, self._order[place]))
        walk.to(place)
        if place in self.openable:
            walk.moves.append(Move("openobject", r=place))
        return walk.moves

    def in_sight(self, facts: HouseholdFacts) -> set[str]:
        """Find the receptacles here whose content shows."""
        here, opened = (
            self._at(facts),
            {receptacle for (receptacle,) in facts.of("opened receptacle")},
        )
        return {
            place
            for place, location in self.places.items()
            if location == here and (place not in self.openable or place in opened)
        }

    def _drops(self, inside: Mapping[str, str], facts: HouseholdFacts, held: str) -> list[str]:
        """Find places for a thing that is in the way: here, where a target is, or anywhere."""
        fits = self._accept[held]
        near = {
            self._at(facts),
            *(self.places[inside[thing]] for thing in self.targets if thing in inside),
        }
        free = [place for place in fits if place not in self.openable] or fits
        return [place for place in fits if self.places[place] in near] + free[:1]

    def _ways(
        self, walk: _Walk, facts: HouseholdFacts, inside: Mapping[str, str], held: str
    ) -> Iterator[_Walk]:
        fetched = [held] if held else [thing for thing in self.targets if thing in inside]
        if self.kind == "two":
            yield from self._pairs(walk, inside, held)
            return
        for thing in fetched:
            way = (
                walk.copy()
                if held
                else walk.copy().act("pickupobject", thing, inside[thing], inside=True)
            )
            if self.kind == "light":
                yield from self._lit(way, facts, inside)
                continue
            ready = self._ready(facts, thing)
            treated = (
                [way]
                if ready
                else [way.copy().act(f"{self.kind}object", thing, a) for a in self.appliances]
            )
            for after in treated:
                for place in self.goals:
                    yield after.copy().act("putobject", thing, place, inside=True)

    def _lit(self, way: _Walk, facts: HouseholdFacts, inside: Mapping[str, str]) -> Iterator[_Walk]:
        for lamp in self.lamps:
            if lamp in inside:
                on = facts.holds("istoggled object", lamp)
                there = way.copy()
                yield (
                    there.to(inside[lamp]) if on else there.act("toggleobject", lamp, inside[lamp])
                )

    def _pairs(self, walk: _Walk, inside: Mapping[str, str], held: str) -> Iterator[_Walk]:
        for place in self.goals:
            missing = 2 - sum(inside.get(thing) == place for thing in self.targets)
            way = walk.copy()
            if held:
                way.act("putobject", held, place, inside=True)
                missing -= 1
            loose = [
                thing
                for thing in self.targets
                if inside.get(thing, place) != place and thing != held
            ]
            for things in itertools.permutations(loose, max(missing, 0)):
                full = way.copy()
                for thing in things:
                    full.act("pickupobject", thing, inside[thing], inside=True)
                    full.act("putobject", thing, place, inside=True)
                yield full

    def _ready(self, facts: HouseholdFacts, thing: str) -> bool:
        """Tell whether a thing is clean, hot or cool where it must be."""
        return self.kind not in _FLAGS or facts.holds(_FLAGS[self.kind], thing)

    def _held(self, facts: HouseholdFacts) -> str:
        return next((thing for _, thing in facts.of("holds agent object")), "")

    def _at(self, facts: HouseholdFacts) -> str:
        return next((place for _, place in facts.of("atlocation agent location")), "")

    def _inside(self, facts: HouseholdFacts, seen: Collection[str] | None = None) -> dict[str, str]:
        """Map every thing to the receptacle that it is in, of those that were seen."""
        inside: dict[str, str] = dict(facts.of("inreceptacle object receptacle"))  # type: ignore[arg-type]
        return {thing: place for thing, place in inside.items() if seen is None or place in seen}
