"""One generated problem: a floor plan, things placed by rules, and a goal within reach::

    problem = sample("heat", seed=7)
    problem.sentence  # 'put a hot cup in cabinet'
    problem.game()  # {"pddl_domain": ..., "grammar": ..., "pddl_problem": ..., "solvable": True}

Seeds below 1,000,000 are training problems, below 2,000,000 validation (the same floor plans, other
combinations of task type, thing, receptacle and plan), from there on test (floor plans that the
others never use).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..task import split_of
from .source import APPLIANCES, TYPES, FloorPlan, package

GENERATOR = 1
"""Version of the rules in this file: another version makes other games."""
_VALID_SHARE = 10
"""One in so many combinations is kept for validation."""
LAMP, _LAMP_PLACES = "DeskLamp", frozenset({"Desk", "SideTable", "Dresser", "Shelf"})
_LAST_RESORT = frozenset({"Microwave", "Fridge", "SinkBasin"})
_DISTRACTORS = 12
_ABLE = {"clean": "Cleanable", "heat": "Heatable", "cool": "Coolable"}
_ESCAPES = (("|", "_bar_"), ("+", "_plus_"), ("-", "_minus_"), (".", "_dot_"), (",", "_comma_"))


def pddl_id(key: str) -> str:
    """Write the key of a receptacle, thing or place as an id of PDDL."""
    for mark, word in _ESCAPES:
        key = key.replace(mark, word)
    return key


def receptacle_type(key: str) -> str:
    """Return the type in a receptacle's key: 'Cabinet' of 'Cabinet|+00.68|+00.50|-02.20'.

    A basin's type is the last part of its key.
    """
    last = key.rsplit("|", 1)[-1]
    return last if last.endswith("Basin") else key.split("|", 1)[0]


@dataclass(frozen=True)
class Problem:
    """All that determines a game; `things` maps each thing's key to its first receptacle's key."""

    kind: str
    seed: int
    plan: FloorPlan
    target: str
    parent: str
    """Type of the receptacle that the goal asks for; the lamp's type for 'light'."""
    things: dict[str, str]
    sentence: str

    @property
    def combination(self) -> str:
        """Name what train and valid never share: task type, target, receptacle and floor plan."""
        return f"{self.kind}|{self.target}|{self.parent}|{self.plan.number}"

    def game(self) -> dict[str, Any]:
        """Write the content of a game.tw-pddl file, less the walkthrough."""
        goal = package().goals[TYPES[self.kind]]["pddl"]
        goal = goal.format(obj=self.target, recep=self.parent, toggle=self.parent).replace("#", "-")
        return {
            "pddl_domain": package().domain,
            "grammar": package().grammar.replace("UNKNOWN GOAL", self.sentence),
            "pddl_problem": "\n".join(_facts(self)) + "\n" + goal,
            "solvable": True,
        }

    def trajectory(self) -> dict[str, Any]:
        """Write the content of the traj_data.json that official loaders read beside a game."""
        lamp = self.kind == "light"
        return {
            "task_type": TYPES[self.kind],
            "pddl_params": {
                "object_target": self.target,
                "parent_target": "" if lamp else self.parent,
                "toggle_target": self.parent if lamp else "",
                "mrecep_target": "",
                "object_sliced": False,
            },
            "scene": {"floor_plan": f"FloorPlan{self.plan.number}", "scene_num": self.plan.number},
            "turk_annotations": {"anns": [{"task_desc": self.sentence, "high_descs": []}]},
        }


def sample(kind: str, seed: int, attempt: int = 0) -> Problem:
    """Draw the problem of a task type and a seed.

    Another `attempt` is another problem of the same split.
    """
    split = split_of(seed)
    rng = random.Random(f"household {GENERATOR} {kind} {seed} {attempt}")
    plans = [
        package().plan(number)
        for number in (package().unseen if split == "test" else package().seen)
    ]
    plans = [plan for plan in plans if plan.kind in package().rooms[TYPES[kind]]]
    while True:
        problem = _draw(kind, seed, rng.choice(plans), rng)
        if problem is not None and (
            split == "test" or _for_validation(problem) == (split == "valid")
        ):
            return problem


def _for_validation(problem: Problem) -> bool:
    digest = hashlib.sha256(problem.combination.encode()).digest()
    return int.from_bytes(digest[:4], "big") % _VALID_SHARE == 0


def _draw(kind: str, seed: int, plan: FloorPlan, rng: random.Random) -> Problem | None:
    """Draw a problem in a floor plan, or None where there is no room for one."""
    holds = package().holds
    places: dict[str, list[str]] = {}
    for key in plan.receptacles:
        if receptacle_type(key) in holds:
            places.setdefault(receptacle_type(key), []).append(key)
    if APPLIANCES.get(kind, next(iter(places), "")) not in places:
        return None
    movable = [thing for thing in plan.objects if any(thing in holds[place] for place in places)]
    target = rng.choice(movable)
    fits = [place for place in sorted(places) if target in holds[place]]
    if len(fits) < 2 or (kind in _ABLE and target not in package().able[_ABLE[kind]]):
        return None
    if kind == "light":
        lamps = [key for place in sorted(_LAMP_PLACES & set(places)) for key in places[place]]
        if not lamps:
            return None
        parent, starts = LAMP, fits
    else:
        parent = rng.choice([place for place in fits if place not in _LAST_RESORT] or fits)
        starts = [place for place in fits if place not in (parent, APPLIANCES.get(kind))]
    if not starts:
        return None
    things: dict[str, str] = {}
    count = {"two": 2}.get(kind, 1) + (rng.random() < 0.3)
    for _ in range(count):
        _put(things, target, rng.choice([key for place in starts for key in places[place]]), rng)
    if kind == "light":
        _put(things, LAMP, rng.choice(lamps), rng)
    others = [thing for thing in movable if thing != target]
    for thing in rng.sample(others, min(_DISTRACTORS, len(others))):
        spots = [key for place in sorted(places) if thing in holds[place] for key in places[place]]
        for _ in range(rng.choice((1, 1, 2))):
            _put(things, thing, rng.choice(spots), rng)
    template = rng.choice(package().goals[TYPES[kind]]["templates"])
    sentence = template.format(obj=target.lower(), recep=parent.lower(), toggle=parent.lower())
    return Problem(kind, seed, plan, target, parent, things, sentence)


def _put(things: dict[str, str], kind: str, receptacle: str, rng: random.Random) -> None:
    """Put a new thing in a receptacle, at coordinates near it that no other of its kind has."""
    near = [float(number) for number in receptacle.split("|")[1:4]]
    while True:
        key = "|".join([kind, *(f"{number + rng.uniform(-0.3, 0.3):+06.2f}" for number in near)])
        if key not in things:
            things[key] = receptacle
            return


# -- PDDL ------------------------------------------------------------------------------------------


def _location(plan: FloorPlan, receptacle: str) -> str:
    x, z, rotation, horizon = plan.receptacles[receptacle]
    return pddl_id(f"loc|{round(4 * x)}|{round(4 * z)}|{round(rotation)}|{round(horizon)}")


def _facts(problem: Problem) -> Iterable[str]:
    """Write a problem as PDDL up to its goal, line by line."""
    plan, holds, able = problem.plan, package().holds, package().able
    receptacles = [key for key in plan.receptacles if receptacle_type(key) in holds]
    room = sorted({receptacle_type(key) for key in receptacles})
    kinds = sorted({key.split("|", 1)[0] for key in problem.things} | {problem.target})
    yield "(define (problem household)"
    yield "(:domain alfred)"
    yield "(:objects"
    yield "agent1 - agent"
    yield from (f"{kind}Type - otype" for kind in kinds)
    yield from (f"{kind}Type - rtype" for kind in sorted({*room, problem.parent} - set(kinds)))
    yield from (f"{pddl_id(key)} - object" for key in problem.things)
    yield from (f"{pddl_id(key)} - receptacle" for key in receptacles)
    yield from (
        f"{place} - location" for place in sorted({_location(plan, key) for key in receptacles})
    )
    yield "loc_start - location"
    yield ")"
    yield "(:init"
    for key in receptacles:
        kind = receptacle_type(key)
        yield f"(receptacleType {pddl_id(key)} {kind}Type)"
        yield f"(receptacleAtLocation {pddl_id(key)} {_location(plan, key)})"
        if kind in package().openable:
            yield f"(openable {pddl_id(key)})"
    yield from (
        f"(canContain {place}Type {kind}Type)"
        for place in room
        for kind in kinds
        if kind in holds[place]
    )
    for key, receptacle in problem.things.items():
        kind, name = key.split("|", 1)[0], pddl_id(key)
        yield f"(objectType {name} {kind}Type)"
        yield f"(inReceptacle {name} {pddl_id(receptacle)})"
        yield f"(objectAtLocation {name} {_location(plan, receptacle)})"
        yield f"({'toggleable' if kind in able['Toggleable'] else 'pickupable'} {name})"
        for word in ("Heatable", "Coolable", "Cleanable"):
            if kind in able[word]:
                yield f"({word.lower()} {name})"
    yield "(atLocation agent1 loc_start)"
    yield "(= (total-cost) 0)"
    yield ")"
