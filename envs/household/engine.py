"""Plays a compiled game: Fast Downward holds the state, ALFWorld's grammar makes the text::

    engine = HouseholdEngine()
    engine.load(compiled)                     # see `compiled.compile_game`
    text = engine.start()
    reply = engine.send("go to shelf 2")      # what the stock engine says, command for command
    engine.commands()                         # what it would accept now, sorted

The stock engine, TextWorld's `PddlEnv`, parses the grammar for each command of each turn, copies
whole contexts and translates the problem twice per reset. Here all of that is data: commands are
rendered once per operator, sorted facts are kept until they change, and going back to the start is
one call of the library. Nothing of TextWorld is changed; a test plays both step by step and
compares every text, every list of commands and every verdict.
"""

from __future__ import annotations

import atexit
import ctypes
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import fast_downward

from ...foundation.processes import run
from . import expression
from .compiled_format import Compiled

LOCK = threading.RLock()
"""Copies of the library share some variables, so one thread at a time is in any of them."""
NOTHING = "Nothing happens."
_spare: list[_Library] = []


class _Library:
    """A private copy of Fast Downward, whose state is global. Never unloaded, so it is lent out
    again and again.
    """

    def __init__(self) -> None:
        self.calls = _load()
        self.game: Compiled | None = None
        self.first = 0
        """State id of the start of `game`."""
        self.buffer: Any = (fast_downward.Operator * 256)()

    def load(self, game: Compiled) -> None:
        """Bring the library to the start of a game."""
        if self.game is game:
            self.calls.set_state_id(self.first)
            return
        self.calls.load_sas(game.sas)
        self.game, self.first = game, self.calls.get_state_id()

    def operators(self) -> list[Any]:
        """List the operators that apply now, in the library's order. Valid until the next call."""
        count = self.calls.get_applicable_operators_count()
        if count > len(self.buffer):
            self.buffer = (fast_downward.Operator * (2 * count))()
        self.calls.get_applicable_operators(self.buffer)
        return list(self.buffer[:count])


def _load() -> Any:
    """Load a copy of Fast Downward, without its debug symbols where that can be done.

    They are 97 % of a copy's size.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "libdownward.so"
        path.write_bytes(_stripped())
        library = ctypes.CDLL(str(path))
    library.load_sas.argtypes, library.load_sas.restype = [ctypes.c_char_p], None
    library.get_applicable_operators.argtypes = [ctypes.POINTER(fast_downward.Operator)]
    library.get_applicable_operators.restype = None
    library.apply_operator.argtypes = [ctypes.c_int, ctypes.POINTER(fast_downward.Atom)]
    library.check_goal.restype = ctypes.c_bool
    return library


@lru_cache(maxsize=1)
def _stripped() -> bytes:
    original = Path(fast_downward.interface.DOWNWARD_LIB_PATH)
    # By each process anew, which takes some hundredths of a second: code is not taken from a cache.
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / original.name
        try:
            stripped = run(["strip", "-o", str(small), str(original)]).code == 0
        except OSError:
            stripped = False
        return (small if stripped else original).read_bytes()


@dataclass(frozen=True)
class HouseholdReply:
    """The answer of a game to a command."""

    text: str
    done: bool
    """False if nothing happened."""
    won: bool


@dataclass(frozen=True, slots=True)
class Operator:
    """A grounded action: its name, its arguments in order, its command and what the game says about
    it.
    """

    name: str
    arguments: tuple[str, ...]
    command: str


class HouseholdEngine:
    """One game at a time, for one thread at a time. `close` gives the library back."""

    def __init__(self) -> None:
        self._library: _Library | None = None
        self.game: Compiled | None = None
        self.operators: dict[str, tuple[int, int, Operator]] = {}
        """Command -> id, number of effects, and the action; what can be done now."""
        self.won = False

    def load(self, game: Compiled) -> None:
        """Take a game to play; `start` begins it."""
        self.game = game

    def start(self) -> str:
        """Start the game, or start it again, and return its opening."""
        assert self.game is not None
        with LOCK:
            if self._library is None:
                self._library = _spare.pop() if _spare else _Library()
            self._library.load(self.game)
            self.facts = HouseholdFacts(self.game)
            self._look()
            return derive(self.facts, [["rule", "intro"]], {}, {})

    def send(self, command: str) -> HouseholdReply:
        """Run one command, which must be one of `commands` to the letter.

        Blanks around it are dropped.
        """
        found = self.operators.get(command.strip())
        if found is None:
            return HouseholdReply(NOTHING, False, self.won)
        id, effects, operator = found
        assert self._library is not None
        assert self.game is not None
        with LOCK:
            atoms = (fast_downward.Atom * effects)()
            self._library.calls.apply_operator(id, atoms)
            for atom in atoms:
                self.facts.change(self.game.atom(atom._name))
            action = self.game.actions[operator.name]
            mapping = dict(zip(action.parameters, operator.arguments, strict=False))
            text = derive(self.facts, action.feedback, mapping, self.game.entities_of(mapping))
            self._look()
        return HouseholdReply(text, True, self.won)

    def commands(self) -> list[str]:
        """List every command that is accepted now, sorted."""
        return sorted(self.operators)

    def close(self) -> None:
        """Give the engine's copy of the library back; `start` takes one again."""
        with LOCK:
            if self._library is not None:
                _spare.append(self._library)
                self._library = None

    def _look(self) -> None:
        """Find what can be done now, and whether the game is won."""
        assert self._library is not None
        assert self.game is not None
        self.operators = {}
        for raw in self._library.operators():
            id = raw.id
            operator = self.game.operators.get(id)
            if operator is None:
                operator = self.game.operators[id] = self._render(raw.name)
            # Conditional effects are operators of the same name, and the first one counts.
            self.operators.setdefault(operator.command, (id, raw.nb_effect_atoms, operator))
        self.won = bool(self._library.calls.check_goal())

    def _render(self, name: str) -> Operator:
        """Write the command of an operator in the words of the grammar.

        It depends on the operator's arguments and on facts that never change (where receptacles
        are), so it is written once.
        """
        assert self.game is not None
        kind, *arguments = name.split()
        action = self.game.actions[kind]
        mapping = dict(zip(action.parameters, arguments, strict=False))
        command = derive(self.facts, action.template, mapping, self.game.entities_of(mapping))
        return Operator(kind, tuple(arguments), command)


# -- facts and text --------------------------------------------------------------------------------

Fact = tuple[str, ...]
Mapping_ = Mapping[str, str]


class HouseholdFacts:
    """The facts that are true now, by predicate and types of arguments."""

    def __init__(self, game: Compiled) -> None:
        self.game = game
        self._sets: dict[str, set[Fact]] = {key: set(facts) for key, facts in game.facts.items()}
        self._sorted: dict[str, list[Fact]] = {}

    def change(self, effect: tuple[str, str, Fact]) -> None:
        """Make a fact true and its negation false.

        `effect` is the fact's key, the key of the negation, and the arguments.
        """
        key, opposite, arguments = effect
        for name in (key, opposite):
            self._sorted.pop(name, None)
        self._sets.setdefault(opposite, set()).discard(arguments)
        self._sets.setdefault(key, set()).add(arguments)

    def of(self, key: str) -> Sequence[Fact]:
        """List the facts of 'predicate type type', sorted as TextWorld sorts them."""
        found = self._sorted.get(key)
        if found is None:
            found = self._sorted[key] = sorted(self._sets.get(key, ()))
        return found

    def holds(self, key: str, *arguments: str) -> bool:
        """Tell whether a fact is true now."""
        return arguments in self._sets.get(key, ())

    def matches(self, query: str, mapping: Mapping[str, str]) -> Iterator[dict[str, str]]:
        """Find the assignments that make a query true, in TextWorld's order.

        Two names never stand for one thing.
        """
        return self._extend(self.game.queries[query], 0, dict(mapping), set(mapping.values()))

    def _extend(
        self, query: Sequence[Any], depth: int, mapping: dict[str, str], used: set[str]
    ) -> Iterator[dict[str, str]]:
        if depth == len(query):
            yield dict(mapping)
            return
        parameters, keys = query[depth]
        for key in keys:
            for fact in self.of(key):
                bound: list[str] = []
                for name, thing in zip(parameters, fact, strict=True):
                    existing = mapping.get(name)
                    if existing is None:
                        if thing in used:
                            break
                        mapping[name] = thing
                        used.add(thing)
                        bound.append(name)
                    elif existing != thing:
                        break
                else:
                    yield from self._extend(query, depth + 1, mapping, used)
                # After a mismatch too: the next fact must not meet names that this one bound.
                for name in bound:
                    used.discard(mapping.pop(name))


def derive(
    facts: HouseholdFacts,
    symbols: Sequence[Any],
    mapping: Mapping[str, str],
    variables: Mapping[str, Any],
) -> str:
    """Write the text of symbols of the grammar; `mapping` says which thing a name stands for."""
    return "".join(_text(facts, symbol, mapping, variables) for symbol in symbols)


def _text(
    facts: HouseholdFacts, symbol: Any, mapping: Mapping[str, str], variables: Mapping[str, Any]
) -> str:
    kind = symbol[0]
    if kind == "text":
        return str(symbol[1])
    if kind == "rule":
        for condition, symbols in facts.game.rules[symbol[1]]:
            if not condition or next(facts.matches(condition, mapping), None) is not None:
                return derive(facts, symbols, mapping, variables)
        raise LookupError(f"no rule of the grammar fits '{symbol[1]}' here")
    if kind == "value":
        return str(expression.read(symbol[1])(variables))
    if kind == "each":
        return "".join(_each(facts, symbol, mapping, variables))
    parts = list(_each(facts, symbol[1], mapping, variables))
    if len(parts) < 2:
        return parts[0] if parts else derive(facts, [["rule", "list_empty"]], mapping, variables)
    between, last = (
        derive(facts, [["rule", f"list_{name}"]], mapping, variables) for name in _SEPARATORS
    )
    return between.join(parts[:-1]) + last + parts[-1]


_SEPARATORS = ("separator", "last_separator")


def _each(
    facts: HouseholdFacts, symbol: Any, mapping: Mapping[str, str], variables: Mapping[str, Any]
) -> Iterator[str]:
    _, inner, query = symbol
    if not query:
        yield _text(facts, inner, mapping, variables)
        return
    for found in facts.matches(query, mapping):
        yield _text(facts, inner, found, {**variables, **facts.game.entities_of(found)})


atexit.register(_spare.clear)
