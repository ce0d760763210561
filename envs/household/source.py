"""The files of the `alfworld` package: domain, grammar, goals, constants, 120 floor plans::

    package().grammar                     # alfred.twl2, as text
    package().plan(301).receptacles       # {'Bed|-00.64|+00.00|+00.87': (0.75, 1.25, 270, 30), ...}

The package itself is never imported: its import makes a folder and sets ALFWORLD_DATA for the whole
process.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

TYPES = {
    "place": "pick_and_place_simple",
    "light": "look_at_obj_in_light",
    "clean": "pick_clean_then_place_in_recep",
    "heat": "pick_heat_then_place_in_recep",
    "cool": "pick_cool_then_place_in_recep",
    "two": "pick_two_obj_and_place",
}
"""Our short names of the six task types, and ALFRED's."""
APPLIANCES = {"clean": "SinkBasin", "heat": "Microwave", "cool": "Fridge"}
"""What a treatment is done with."""


@dataclass(frozen=True)
class FloorPlan:
    """A room: its number, its receptacles with the place to stand (x, z in metres, rotation,
    horizon), its things.
    """

    number: int
    receptacles: dict[str, tuple[float, float, float, float]]
    objects: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Name the kind of room: 'Kitchen', 'LivingRoom', 'Bedroom' or 'Bathroom'."""
        return {0: "Kitchen", 2: "LivingRoom", 3: "Bedroom", 4: "Bathroom"}[self.number // 100]


class Package:
    """The installed package, as files. Raises ImportError if there is none."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("alfworld")
        if spec is None or spec.origin is None:
            raise ImportError("No module named 'alfworld'")
        self.home = Path(spec.origin).parent
        self.domain = (self.home / "data" / "alfred.pddl").read_text("utf-8")
        self.grammar = (self.home / "data" / "alfred.twl2").read_text("utf-8")
        self.goals: dict[str, dict[str, Any]] = self._module("goal_library").gdict
        constants = self._module("constants")
        self.holds: dict[str, frozenset[str]] = {
            kind: frozenset(things) for kind, things in constants.VAL_RECEPTACLE_OBJECTS.items()
        }
        """Type of receptacle -> types of things that fit."""
        self.able: dict[str, frozenset[str]] = {
            name: frozenset(things) for name, things in constants.VAL_ACTION_OBJECTS.items()
        }
        """'Heatable', 'Coolable', 'Cleanable', 'Toggleable', 'Sliceable' -> types of things."""
        self.openable = frozenset(constants.OPENABLE_CLASS_LIST)
        self.rooms: dict[str, frozenset[str]] = {
            task: frozenset(kinds) for task, kinds in constants.GOALS_VALID.items()
        }
        """Task type (ALFRED's name) -> kinds of rooms it is played in."""
        self.seen: tuple[int, ...] = tuple(sorted(constants.TRAIN_SCENE_NUMBERS))
        self.unseen: tuple[int, ...] = tuple(sorted(constants.TEST_SCENE_NUMBERS))

    def _module(self, name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(
            f"_turnrl_alfworld_{name}", self.home / "gen" / f"{name}.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    @lru_cache(maxsize=256)  # noqa: B019 - there is one package per process
    def plan(self, number: int) -> FloorPlan:
        """Read a floor plan by its number."""
        layouts = self.home / "gen" / "layouts"
        places = json.loads((layouts / f"FloorPlan{number}-openable.json").read_text("utf-8"))
        things = json.loads((layouts / f"FloorPlan{number}-objects.json").read_text("utf-8"))
        return FloorPlan(
            number, {key: tuple(places[key]) for key in sorted(places)}, tuple(sorted(set(things)))
        )


@lru_cache(maxsize=1)
def package() -> Package:
    """Return the installed `alfworld` package as files, read once.

    Raises ImportError if there is none.
    """
    return Package()


@lru_cache(maxsize=1)
def versions() -> str:
    """Name the versions that decide what a game is and how it is played, as a folder name.

    Raises ImportError where a package is missing.
    """
    try:
        names = ("alfworld", "textworld", "fast_downward_textworld")
        return "-".join(version(name) for name in names)
    except PackageNotFoundError as error:
        raise ImportError(f"No module named '{error.name}'") from None
