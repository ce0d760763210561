"""A game as the engine plays it: parsed and translated once, by TextWorld and Fast Downward
themselves, kept as JSON.

Stock play parses the grammar for every command of every turn and translates the PDDL problem twice
per reset, which is nearly all of its cost. `compile_game` does both once; what it keeps is plain
data, so playing needs no parser. Symbols are lists: ``["text", t]``, ``["rule", name]``,
``["value", expression]``, ``["each", symbol, query]``, ``["list", symbol]``.

This module imports TextWorld's parsers and its translator, which overwrites ``sys.argv`` and swaps
``sys.stdout``: it belongs into worker processes (`worker.py`), never into a process that plays.
"""

from __future__ import annotations

import functools
from typing import Any

from textworld.envs.pddl import PddlEnv, textgen
from textworld.logic import Rule

from . import expression
from .compiled_format import FORMAT
from .goal import read_goal
from .names import names_of

# The grammars of two games differ in one sentence; TextWorld parses all of it for each.
textgen._parse_and_convert = functools.lru_cache(maxsize=4096)(textgen._parse_and_convert)


def compile_game(env: PddlEnv, game: dict[str, Any], *, plan: bool) -> dict[str, Any]:
    """Translate a game into the data that `engine.HouseholdEngine` plays.

    With `plan` the planner's way to win is in it as 'walkthrough'.

    `env` is any PddlEnv; making one costs a copy of a 34 MB library, so a worker uses one for all
    games.
    """
    env.load(game)
    state, logic = env._pddl_state, env._logic
    reader = _Reader(state)
    names = names_of(env._entity_infos)
    for id, info in env._entity_infos.items():
        info.name = names[id]
    return {
        "format": FORMAT,
        "goal": read_goal(game["pddl_problem"]),
        "sas": state.sas,
        "types": state.name2type,
        "names": {id: [names[id], info.type] for id, info in sorted(env._entity_infos.items())},
        "facts": sorted(
            [fact.name, [argument.name for argument in fact.arguments]] for fact in state.facts
        ),
        "rules": {
            name: [
                [reader.query(rule.condition), [reader.symbol(parsed) for parsed in rule.rhs]]
                for rule in rules
            ]
            for name, rules in logic.grammar._rules.items()
        },
        "actions": {
            name: {
                "parameters": [
                    parameter.name.strip("?") for parameter in state._actions[name].parameters
                ],
                "template": reader.symbols(action.template),
                "said": action.template,
                "feedback": reader.symbols(action.feedback_rule),
            }
            for name, action in logic.actions.items()
            if name in state._actions
        },
        "queries": reader.queries,
        "walkthrough": list(state.replan(env._entity_infos)) if plan else game.get("walkthrough"),
    }


class _Reader:
    """Turns what TextWorld parsed into plain lists, and collects the queries in it."""

    def __init__(self, state: Any) -> None:
        self.queries: dict[str, Any] = {}
        self._state = state

    def query(self, expression: str) -> str:
        """Return the text of a query, and keep what it parses to in `queries`; '' for none."""
        if expression and expression not in self.queries:
            predicates = Rule.parse_conjunctive_query(expression).preconditions
            self.queries[expression] = [
                [one.name, [name.name for name in one.parameters], _signatures(self._state, one)]
                for one in predicates
            ]
        return expression or ""

    def symbol(self, parsed: Any) -> list[Any]:
        """Write a parsed symbol of the grammar in the form that the module's docstring gives."""
        if isinstance(parsed, textgen.TerminalSymbol):
            return ["text", parsed.symbol]
        if isinstance(parsed, textgen.NonterminalSymbol):
            return ["rule", str(parsed)]
        if isinstance(parsed, textgen.EvalSymbol):
            expression.read(
                parsed.expression
            )  # what may not be said is found here, and not in the middle of a game
            return ["value", parsed.expression]
        if isinstance(parsed, textgen.ConditionalSymbol):
            return ["each", self.symbol(parsed.expression), self.query(parsed.given)]
        assert isinstance(parsed, textgen.ListSymbol), type(parsed)
        return ["list", self.symbol(parsed.symbol)]

    def symbols(self, text: str) -> list[Any]:
        """List the symbols of a command or of a feedback."""
        return [
            self.symbol(parsed) for parsed in textgen._parse_and_convert(text, rule_name="symbols")
        ]


def _signatures(state: Any, predicate: Any) -> list[list[str]]:
    """List the types of arguments that a predicate may have in facts, in TextWorld's order."""
    types = state._logic.types
    own = {fact.signature.types for fact in state.facts if fact.name == predicate.name} | {
        predicate.signature.types
    }
    found = types.multi_subtypes([types.get(type) for type in predicate.signature.types])
    return [
        names for names in ([type.name for type in kinds] for kinds in found) if tuple(names) in own
    ]
