"""The generated encyclopedia: people, works, towns, organisations, regions and rivers that never
were.

Every page states the facts of one thing in plain prose. Questions of 2 to 4 hops follow chains of
facts through as many pages; each chain is known. Everything is drawn from `seed` alone::

    world = Encyclopedia(pages=3000, seed=0)
    world.questions["test"][0].text  # In which year was the founder of ... born?

Two things keep a player honest. The facts of a split stay among its own things, so nothing learnt
from training questions answers a test question; all pages are in one corpus, so the others are in
the way. And answers are chosen before chains, from all values a relation has, so that no answer is
frequent and names tell nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

from ..task import SPLITS, Split
from .names import MEN, WOMEN, Namer
from .prose import WORDS, page
from .relations import RELATIONS, SHARES, Entity, Kind, Relation
from .store import Passage, Question, Support

HOPS = (2, 3, 4)
PARTS: dict[Split, float] = {"train": 0.65, "valid": 0.15, "test": 0.20}
"""Shares of the pages."""
SIZES: dict[Split, int] = {"train": 6000, "valid": 300, "test": 600}
"""Questions of a split at most, equally many of each number of hops."""
_TRIES = 10
"""Chains drawn per wanted question before the search for more is given up."""


class Encyclopedia:
    """All pages and questions.

    Args:
        pages: how many there are, give or take the rounding of shares.
        seed: of everything.
    """

    def __init__(self, pages: int, seed: int) -> None:
        self._rng = random.Random(f"search {seed} {pages}")
        self.things: list[Entity] = []
        people = round(pages * SHARES["person"])
        self._namer = Namer(self._rng, people)
        self._members: dict[Split, dict[Kind, list[int]]] = {}
        for split, part in PARTS.items():
            self._members[split] = {
                kind: self._create(kind, round(pages * part * SHARES[kind])) for kind in SHARES
            }
            _Facts(self.things, self._members[split], self._namer, self._rng).state()
        self.texts = [page(thing, self._values(thing), self._rng) for thing in self.things]
        self.questions = {split: list(self._ask(split)) for split in SPLITS}

    def passages(self) -> Iterator[Passage]:
        """Yield the pages as passages."""
        return (
            Passage(_id(n), thing.title, text)
            for n, (thing, text) in enumerate(zip(self.things, self.texts, strict=True))
        )

    def _create(self, kind: Kind, count: int) -> list[int]:
        first = len(self.things)
        self.things += [self._entity(kind) for _ in range(max(2, count))]
        return list(range(first, len(self.things)))

    def _entity(self, kind: Kind) -> Entity:
        word = self._rng.choice(WORDS[kind])
        if kind == "person":
            given, subject, possessive = self._rng.choice(
                ((WOMEN, "She", "Her"), (MEN, "He", "His"))
            )
            return Entity(
                kind, self._namer.person(given), word, (subject, f"The {word}"), possessive
            )
        draw = getattr(self._namer, kind)
        return Entity(kind, draw(), word, ("It", f"The {word}"), "Its")

    def _values(self, thing: Entity) -> dict[str, str]:
        return {
            name: self.things[int(value)].inline if RELATIONS[name].to else str(value)
            for name, value in thing.facts.items()
        }

    def _ask(self, split: Split) -> Iterator[Question]:
        """Yield the questions of a split; their numbers of hops take turns."""
        each = SIZES[split] // len(HOPS)
        chains = _Chains(self.things, self._members[split], random.Random(self._rng.random()))
        by_hops = [list(self._distinct(chains, hops, each)) for hops in HOPS]
        for turn in range(each):
            yield from (questions[turn] for questions in by_hops if turn < len(questions))

    def _distinct(self, chains: _Chains, hops: int, count: int) -> Iterator[Question]:
        seen: set[tuple[tuple[int, ...], str]] = set()
        for drawn in islice(chains.draws(hops), count * _TRIES):
            if len(seen) == count:
                return
            if drawn is None:
                continue
            nodes, relations = drawn
            key = nodes, relations[-1].name
            if key not in seen and (question := self._question(nodes, relations)) is not None:
                seen.add(key)
                yield question

    def _question(self, nodes: tuple[int, ...], relations: list[Relation]) -> Question | None:
        """Write a question; None if its answer stands on an earlier page or in itself."""
        last = self.things[nodes[-1]].facts[relations[-1].name]
        answers = self._answers(relations[-1], last)
        phrase = self.things[nodes[0]].inline
        for depth, relation in enumerate(relations[:-1]):
            nouns = relation.nouns if depth == 0 else relation.nouns[:1]
            phrase = self._rng.choice(nouns).format(x=phrase)
        text = self._rng.choice(relations[-1].questions).format(x=phrase)
        if any(
            answers[-1] in earlier for earlier in (text, *(self.texts[node] for node in nodes[:-1]))
        ):
            return None
        supports = tuple(Support(self.things[node].title, _id(node)) for node in nodes)
        return Question(text, answers, supports, len(nodes))

    def _answers(self, relation: Relation, value: int | str) -> tuple[str, ...]:
        if relation.to is None:
            return (str(value),)
        title = self.things[int(value)].title
        return (title, title.removeprefix("River ")) if relation.to == "river" else (title,)


def _id(number: int) -> str:
    return f"page-{number}"


class _Facts:
    """Draws the facts of one split among its own things."""

    def __init__(
        self, things: list[Entity], members: dict[Kind, list[int]], namer: Namer, rng: random.Random
    ) -> None:
        self._things, self._members, self._namer, self._rng = things, members, namer, rng

    def state(self) -> None:
        """Draw the facts of all things, years first.

        So teachers are older than their pupils, and nobody works for what is not founded yet.
        """
        for person in self._members["person"]:
            self._things[person].facts = {"born": self._rng.randint(1800, 1899)}
        for body in self._members["organisation"]:
            founder = self._any("person")
            self._things[body].facts = {
                "founder": founder,
                "seat": self._any("town"),
                "founded": self._year(founder, "born") + self._rng.randint(24, 45),
            }
        for person in self._members["person"]:
            self._person(person)
        for work in self._members["work"]:
            author = self._any("person")
            year = self._year(author, "born") + self._rng.randint(22, 60)
            facts = self._things[work].facts = {
                "author": author,
                "setting": self._any("town"),
                "published": year,
            }
            self._maybe(facts, "publisher", "organisation", "founded", 1700, year)
        towns: dict[int, list[int]] = {}
        for town in self._members["town"]:
            region = self._any("region")
            towns.setdefault(region, []).append(town)
            self._things[town].facts = {
                "region": region,
                "river": self._any("river"),
                "architect": self._any("person"),
                "origin": self._other("town", town),
            }
        for region in self._members["region"]:
            inside = towns.get(region)
            self._things[region].facts = {
                "capital": self._rng.choice(inside or self._members["town"]),
                "language": self._namer.language(),
                "anthem": self._any("person"),
            }
        for river in self._members["river"]:
            self._things[river].facts = {
                "mouth": self._any("town"),
                "source": self._namer.mountain(),
            }

    def _person(self, person: int) -> None:
        facts, born = self._things[person].facts, self._year(person, "born")
        facts["birthplace"] = self._any("town")
        self._maybe(facts, "teacher", "person", "born", born - 60, born - 12)
        self._maybe(facts, "employer", "organisation", "founded", 1700, born + 45)

    def _maybe(
        self, facts: dict[str, int | str], name: str, kind: Kind, year: str, first: int, last: int
    ) -> None:
        """Add a fact about a thing from between two years, if one is found soon."""
        for _ in range(12):
            candidate = self._any(kind)
            if first <= self._year(candidate, year) <= last:
                facts[name] = candidate
                return

    def _any(self, kind: Kind) -> int:
        return self._rng.choice(self._members[kind])

    def _other(self, kind: Kind, than: int) -> int:
        """Choose another thing of a kind; each kind has two at least."""
        found = self._any(kind)
        return found if found != than else self._other(kind, than)

    def _year(self, thing: int, name: str) -> int:
        return int(self._things[thing].facts[name])


class _Chains:
    """Draws chains of facts backwards from their answers."""

    def __init__(
        self, things: list[Entity], members: dict[Kind, list[int]], rng: random.Random
    ) -> None:
        self._things, self._rng = things, rng
        self._into: dict[int, list[tuple[Relation, int]]] = {}
        """Thing -> the facts that lead to it."""
        self._last: dict[str, dict[int | str, list[int]]] = {name: {} for name in RELATIONS}
        """Relation -> value -> things that have it."""
        for number in (number for numbers in members.values() for number in numbers):
            for name, value in things[number].facts.items():
                self._last[name].setdefault(value, []).append(number)
                if RELATIONS[name].to is not None:
                    self._into.setdefault(int(value), []).append((RELATIONS[name], number))

    def draws(self, hops: int) -> Iterator[tuple[tuple[int, ...], list[Relation]] | None]:
        """Yield chains of facts without end: their things, and the relation followed from each.

        The things go from the first page to the last. None stands for a chain that has no beginning
        or meets itself.

        The last relations take turns, and for each of them all of its values, in an order of their
        own.
        """
        orders = {
            name: self._rng.sample(list(values), len(values))
            for name, values in self._last.items()
            if values
        }
        turn = 0
        while True:
            for name, values in orders.items():
                yield self._backwards(name, values[turn % len(values)], hops)
            turn += 1

    def _backwards(
        self, name: str, answer: int | str, hops: int
    ) -> tuple[tuple[int, ...], list[Relation]] | None:
        nodes, relations = [self._rng.choice(self._last[name][answer])], [RELATIONS[name]]
        while len(nodes) < hops:
            leading = self._into.get(nodes[0])
            if not leading:
                return None
            relation, before = self._rng.choice(leading)
            nodes.insert(0, before)
            relations.insert(0, relation)
        # A chain that meets itself or its answer would have a way round some of its pages.
        ends = [answer] if RELATIONS[name].to is not None else []
        return (tuple(nodes), relations) if len({*nodes, *ends}) == hops + len(ends) else None
