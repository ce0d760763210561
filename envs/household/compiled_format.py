"""A compiled game in memory, ready to be played::

    game = Compiled.read(path)
    game.actions["putobject"].said        # 'move {o} to {r}'

What this reads, `compiled.py` writes.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
"""Version of the file; another one is made again."""


@dataclass(slots=True)
class CompiledEntity:
    """A thing, with all that the expressions of the grammar may ask of it."""

    id: str
    type: str
    name: str
    definite: str = "the"
    indefinite: str = "a"
    noun: str | None = None
    adj: str | None = None
    desc: str | None = None
    room_type: str | None = None
    synonyms: list[str] | None = None

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class CompiledAction:
    """An action of the domain: names of its parameters, its command, what is said after it."""

    parameters: tuple[str, ...]
    template: list[Any]
    said: str
    """The command as the grammar writes it."""
    feedback: list[Any]


class Compiled:
    """A game as data, shared by all who play it; what is learned while playing (rendered commands)
    stays with it.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.sas = data["sas"].encode()
        self.goal: dict[str, str] = data["goal"]
        """See `goal.read_goal`."""
        self.types: dict[str, str] = data["types"]
        self.entities = {
            id: CompiledEntity(id, type, name) for id, (name, type) in data["names"].items()
        }
        self.rules: dict[str, list[Any]] = data["rules"]
        self.walkthrough: list[str] | None = data["walkthrough"]
        self.actions = {
            name: CompiledAction(tuple(a["parameters"]), a["template"], a["said"], a["feedback"])
            for name, a in data["actions"].items()
        }
        self.queries = {
            text: [
                (names, [" ".join([predicate, *types]) for types in signatures])
                for predicate, names, signatures in q
            ]
            for text, q in data["queries"].items()
        }
        self.facts: dict[str, list[tuple[str, ...]]] = {}
        """'predicate type type' -> arguments, at the start."""
        for predicate, arguments in data["facts"]:
            self.facts.setdefault(self._key(predicate, arguments), []).append(tuple(arguments))
        self.operators: dict[int, Any] = {}
        """Operators rendered so far, by their number in Fast Downward."""
        self._atoms: dict[bytes, tuple[str, str, tuple[str, ...]]] = {}

    @classmethod
    def read(cls, path: Path) -> Compiled:
        """Read a compiled game from its file."""
        return cls(json.loads(gzip.decompress(path.read_bytes())))

    def atom(self, raw: bytes) -> tuple[str, str, tuple[str, ...]]:
        """Split a fact as Fast Downward writes it: its key, the key of its negation, its arguments.

        It writes 'Atom opened(shelf)' or 'NegatedAtom opened(shelf)'.
        """
        found = self._atoms.get(raw)
        if found is None:
            kind, rest = raw.decode("cp1252").split(" ", 1)
            predicate, inside = rest.split("(", 1)
            arguments = tuple(argument for argument in inside[:-1].split(", ") if argument)
            key = self._key(predicate, arguments)
            keys = (f"not_{key}", key) if kind == "NegatedAtom" else (key, f"not_{key}")
            found = self._atoms[raw] = (*keys, arguments)
        return found

    def entities_of(self, mapping: Mapping[str, str]) -> dict[str, CompiledEntity]:
        """Look up the entities that names stand for."""
        return {name: self.entities[id] for name, id in mapping.items()}

    def _key(self, predicate: str, arguments: Any) -> str:
        return " ".join([predicate, *(self.types[argument] for argument in arguments)])
