"""The logic of a game: possible commands and the winning plan, worked out once per state.

TextWorld follows a game by matching what the interpreter reports (``taking the key``) against the
actions that its rules allow, and lists those actions anew after each of them. The states of one
game recur, within an episode and even more within a group of episodes, and everything here is a
function of the state. So the states are kept as a graph whose edges are events, shared by all
instances of a game in this process::

    logic = logic_of(path)
    view = logic.opening_view(plan=False)
    view = logic.after(view, "opening the chest")
    logic.commands(view), logic.plan(view)

Rules are matched here and not by TextWorld's `State`, in the same order: it keeps facts sorted and
does again only those rules whose facts changed. Plans are TextWorld's own.
"""

from __future__ import annotations

import copy
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from textworld.generator.game import Game, GameProgression
from textworld.generator.inform7 import Inform7Game
from textworld.logic import Signature, State

LOCK = threading.RLock()
"""TextWorld reads logic with one parser per process, and what is here is shared: hold it for every
call.
"""
GAMES_KEPT = 32
"""Games whose logic stays when no instance plays them."""
STATES_KEPT = 400
"""States per game; then all are forgotten, as games that large hardly see a state twice."""

Facts = Mapping[Any, tuple[Any, ...]]
"""Propositions by signature, sorted."""


@dataclass(eq=False, slots=True)
class Scene:
    """The facts of a game's world, and what can be done in it."""

    facts: frozenset[Any]
    by_signature: Facts
    by_rule: list[tuple[Any, ...]]
    """The possible actions of each rule."""
    events: dict[str, Any] | None = None
    """The action behind each event that can happen now."""
    commands: tuple[str, ...] | None = None
    after: dict[str, Scene] = field(default_factory=dict)

    @property
    def actions(self) -> Iterator[Any]:
        """List all possible actions, in TextWorld's order."""
        return itertools.chain.from_iterable(self.by_rule)


@dataclass(eq=False, slots=True)
class View:
    """A scene and, where plans are wanted, how far the quests are. The quests are never changed,
    only replaced.
    """

    scene: Scene
    quests: tuple[Any, ...] | None
    plan: tuple[str, ...] | None = None
    after: dict[str, View] = field(default_factory=dict)


@dataclass(frozen=True)
class Pattern:
    """A rule, ready to be matched."""

    rule: Any
    conditions: tuple[tuple[tuple[Any, ...], tuple[Any, ...]], ...]
    """Per precondition its placeholders, and the signatures that facts may have which meet it."""
    reads: frozenset[Any]
    """All those signatures."""
    free: tuple[tuple[Any, frozenset[str]], ...]
    """Placeholders that no precondition names, and the types they may have: anything unused will
    do.
    """


class _FactSet(State):  # type: ignore[misc]
    """As much of TextWorld's State as quests look at."""

    def __init__(self, facts: frozenset[Any]) -> None:
        self._all = facts

    @property
    def facts(self) -> frozenset[Any]:
        """Return all facts."""
        return self._all

    def is_fact(self, prop: Any) -> bool:
        """Tell whether a proposition is true."""
        return prop in self._all


class Logic:
    """The logic of one game. Every call needs LOCK."""

    def __init__(self, game: Game) -> None:
        self.game = game
        self._inform7 = Inform7Game(game)
        self._constants: dict[Any, Any] = dict(game.kb.types.constants_mapping)
        types = game.kb.logic.types
        self._patterns = [_pattern(rule, types, self._constants) for rule in game.kb.rules.values()]
        self._progression: GameProgression | None = None
        self._words: dict[int, tuple[str, str]] = {}
        self._scenes: dict[frozenset[Any], Scene] = {}
        self._views: dict[Any, View] = {}
        self._openings: dict[bool, View] = {}

    def opening_view(self, *, plan: bool) -> View:
        """Return the view that the game starts with; those that follow have plans if it has."""
        if plan not in self._openings:
            facts = frozenset(self.game.world.state.facts)
            scene = self._scenes.get(facts) or self._scene(facts, None, facts)
            quests = None
            if plan:
                self._progression = GameProgression(self.game)
                quests = tuple(self._progression.quest_progressions)
            self._openings[plan] = View(scene, quests)
        return self._openings[plan]

    def after(self, view: View, event: str) -> View:
        """Return the view after an event.

        An event that no possible action explains changes nothing, as in TextWorld.
        """
        found = view.after.get(event)
        if found is None:
            if len(self._scenes) + len(self._views) > STATES_KEPT:
                self._forget()
            found = view.after[event] = self._follow(view, event)
        return found

    def commands(self, view: View) -> tuple[str, ...]:
        """List every command that has an effect or shows something, sorted, each once."""
        scene = view.scene
        if scene.commands is None:
            scene.commands = tuple(sorted({self._describe(action)[0] for action in scene.actions}))
        return scene.commands

    def plan(self, view: View) -> tuple[str, ...]:
        """Find commands that win from here; none if the game is over or nobody knows a way.

        TextWorld plans; where it has no plan from the start, as in cooking games with a limited
        inventory, the game's own walkthrough is followed from every state on it.
        """
        if view.plan is None:
            policy = self._policy(view)
            commands = self._inform7.gen_commands_from_actions(policy or ())
            view.plan = (
                tuple(commands) if self._is_planned else self._rest_of_walkthrough(view.scene)
            )
        return view.plan

    # -- plans -------------------------------------------------------------------------------------

    def _policy(self, view: View) -> Any:
        progression: Any = copy.copy(self._progression)
        progression.quest_progressions = view.quests
        return progression.winning_policy

    @cached_property
    def _is_planned(self) -> bool:
        """Tell whether TextWorld has a plan at the start."""
        return bool(self._policy(self.opening_view(plan=True)))

    def _rest_of_walkthrough(self, scene: Scene) -> tuple[str, ...]:
        way, places = self._walkthrough
        place = places.get(scene.facts)
        return () if place is None else way[place:]

    @cached_property
    def _walkthrough(self) -> tuple[tuple[str, ...], dict[frozenset[Any], int]]:
        """List the walkthrough's commands, and map what is true to the number of the next one.

        Where a state recurs the last one counts. Commands that nothing explains are left out:
        walkthroughs open doors that are open already.
        """
        view, way, places = self.opening_view(plan=False), list[str](), dict[frozenset[Any], int]()
        for command in self.game.metadata.get("walkthrough") or ():
            action = next((a for a in view.scene.actions if self._describe(a)[0] == command), None)
            if action is not None:
                places[view.scene.facts] = len(way)
                way.append(command)
                view = self.after(view, self._describe(action)[1])
        return tuple(way), places

    # -- from state to state -----------------------------------------------------------------------

    def _follow(self, view: View, event: str) -> View:
        scene = view.scene
        action = self._action(scene, event)
        if action is None:
            return view
        after = scene.after.get(event)
        if after is None:
            facts = scene.facts
            if facts.issuperset(action.preconditions):
                facts = facts.union(action.added) - action.removed
            after = self._scenes.get(facts) or self._scene(facts, scene, facts ^ scene.facts)
            scene.after[event] = after
        quests = None
        if view.quests is not None:
            quests = tuple(_branch(quest) for quest in view.quests)
            state = _FactSet(after.facts)
            for quest in quests:
                quest.update(action, state)
        key = (after.facts, quests and tuple(map(_fingerprint, quests)))
        return self._views.setdefault(key, View(after, quests))

    def _action(self, scene: Scene, event: str) -> Any:
        """Find the action of an event as TextWorld does: most preconditions, then the first."""
        if scene.events is None:
            scene.events = {}
            for action in sorted(scene.actions, key=lambda a: len(a.preconditions), reverse=True):
                scene.events.setdefault(self._describe(action)[1], action)
        return scene.events.get(event.lower())

    def _describe(self, action: Any) -> tuple[str, str]:
        """Return an action's command, and the event that reports it."""
        # Rules make equal actions once, so the id will do.
        words = self._words.get(id(action))
        if words is None:
            names = self._inform7._get_name_mapping(action)
            event = self.game.kb.inform7_events[action.name].format(**names).lower()
            words = self._words[id(action)] = (
                self._inform7.gen_commands_from_actions([action])[0],
                event,
            )
        return words

    def _scene(self, facts: frozenset[Any], parent: Scene | None, changed: frozenset[Any]) -> Scene:
        """Make the scene of these facts, which differ from the parent's in the `changed` ones."""
        signatures = frozenset(fact.signature for fact in changed)
        groups: dict[Any, list[Any]] = {signature: [] for signature in signatures}
        for fact in facts:
            if fact.signature in signatures:
                groups[fact.signature].append(fact)
        by_signature = {
            **(parent.by_signature if parent else {}),
            **{s: tuple(sorted(f)) for s, f in groups.items()},
        }
        by_rule = [
            parent.by_rule[index]
            if parent is not None and not pattern.free and pattern.reads.isdisjoint(signatures)
            else tuple(self._match(pattern, by_signature))
            for index, pattern in enumerate(self._patterns)
        ]
        scene = self._scenes[facts] = Scene(facts, by_signature, by_rule)
        return scene

    def _match(self, pattern: Pattern, facts: Facts) -> Iterator[Any]:
        """Yield the actions a rule allows: different placeholders stand for different things."""
        if not all(any(facts.get(s) for s in signatures) for _, signatures in pattern.conditions):
            return
        for bound in _bindings(pattern.conditions, 0, dict(self._constants), facts):
            for complete in _fill(pattern.free, bound, facts) if pattern.free else (bound,):
                yield pattern.rule.instantiate(complete)

    def _forget(self) -> None:
        # An instance keeps the view it is in, whose edges would keep the whole graph.
        for scene in self._scenes.values():
            scene.after.clear()
        for view in (*self._views.values(), *self._openings.values()):
            view.after.clear()
        self._scenes.clear()
        self._views.clear()
        self._openings.clear()


def _pattern(rule: Any, types: Any, constants: Mapping[Any, Any]) -> Pattern:
    conditions = []
    for predicate in rule.preconditions:
        kinds = [types.get(kind) for kind in predicate.signature.types]
        choices = ([kind.name for kind in choice] for choice in types.multi_subtypes(kinds))
        signatures = tuple(Signature(predicate.signature.name, names) for names in choices)
        conditions.append((tuple(predicate.parameters), signatures))
    bound = {placeholder for placeholders, _ in conditions for placeholder in placeholders}
    free = tuple(
        (placeholder, frozenset(kind.name for kind in types.get(placeholder.type).subtypes))
        for placeholder in rule.placeholders
        if placeholder not in bound and placeholder not in constants
    )
    return Pattern(
        rule,
        tuple(conditions),
        frozenset(itertools.chain.from_iterable(s for _, s in conditions)),
        free,
    )


def _bindings(
    conditions: Any, depth: int, bound: dict[Any, Any], facts: Facts
) -> Iterator[dict[Any, Any]]:
    """Yield every way to meet the conditions from `depth` on, in TextWorld's order."""
    if depth == len(conditions):
        yield dict(bound)
        return
    placeholders, signatures = conditions[depth]
    for signature in signatures:
        for fact in facts.get(signature, ()):
            new: list[Any] = []
            for placeholder, variable in zip(placeholders, fact.arguments, strict=True):
                existing = bound.get(placeholder)
                if existing is None:
                    if variable in bound.values():
                        break
                    bound[placeholder] = variable
                    new.append(placeholder)
                elif existing != variable:
                    break
            else:
                yield from _bindings(conditions, depth + 1, bound, facts)
            for placeholder in new:
                del bound[placeholder]


def _fill(free: Any, bound: dict[Any, Any], facts: Facts) -> Iterator[dict[Any, Any]]:
    """Yield every way to bind free placeholders, by name."""
    # By name, because TextWorld's own order depends on the hash seed here.
    things = {variable for group in facts.values() for fact in group for variable in fact.arguments}
    candidates = [sorted(v for v in things if v.type in kinds) for _, kinds in free]
    for choice in itertools.product(*candidates):
        if len({*choice, *bound.values()}) == len(choice) + len(bound):
            yield {
                **bound,
                **{placeholder: v for (placeholder, _), v in zip(free, choice, strict=True)},
            }


def _branch(quest: Any) -> Any:
    """Copy a quest's progress, so that it can go on without changing the original."""
    twin = copy.copy(quest)
    twin.win_events, twin.fail_events = (
        [_branch_event(e) for e in es] for es in (quest.win_events, quest.fail_events)
    )
    return twin


def _branch_event(event: Any) -> Any:
    if event.done:  # it changes no more, but for being reset, which is a flag of its own
        return copy.copy(event)
    twin = copy.copy(event)
    twin._tree = event._tree.copy()
    return twin


def _fingerprint(quest: Any) -> Any:
    """Collect all of a quest's progress that its future depends on."""
    events = (
        (event._triggered, event._untriggerable, event._policy, _shape(event._tree))
        for event in (*quest.win_events, *quest.fail_events)
    )
    return quest.nb_completions, *events


def _shape(tree: Any) -> Any:
    """List a tree's nodes from the leaves up."""
    numbers: dict[int, int] = {}
    nodes = []
    for node in tree:
        # Nodes may share an element, which knows one parent only: so that is told.
        above, element = [], node.element
        number = numbers.setdefault(id(element), len(numbers))
        while element is not None:
            above.append(element.action)
            element = element.parent
        nodes.append((number, len(node.children), *above))
    return tuple(nodes)


_games: OrderedDict[Path, Logic] = OrderedDict()


def logic_of(path: Path) -> Logic:
    """Return the logic of the game in this .z8, read once as long as it is in use."""
    with LOCK:
        logic = _games.pop(path, None) or Logic(Game.load(str(path.with_suffix(".json"))))
        _games[path] = logic
        while len(_games) > GAMES_KEPT:
            _games.popitem(last=False)
        return logic
