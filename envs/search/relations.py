"""The relations of the generated encyclopedia: kinds of facts, with their questions and sentences.

A relation leads from a thing of one kind to another thing, or to a year or a name without a page of
its own. It has noun phrases, which nest into questions of several hops::

    "the author of {x}" in "In which town was {x} born?"
    # In which town was the author of "The Owl" born?

In sentences ``{s}`` is the subject (She, The novel), ``{p}`` its possessive (Her, Its), ``{v}`` the
value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["person", "work", "town", "organisation", "region", "river"]
SHARES: dict[Kind, float] = {
    "person": 0.32,
    "work": 0.22,
    "town": 0.20,
    "organisation": 0.14,
    "region": 0.06,
    "river": 0.06,
}
"""Of all pages."""


@dataclass(frozen=True)
class Relation:
    """A kind of fact."""

    name: str
    of: Kind
    to: Kind | None
    """None: a year or a name without a page, which only the last hop can lead to."""
    nouns: tuple[str, ...]
    """The first one may stand around a noun phrase, all of them around a name."""
    questions: tuple[str, ...]
    sentences: tuple[str, ...]


@dataclass
class Entity:
    """A thing that has a page. `facts` maps names of relations to the number of a thing, or to a
    year or a name.
    """

    kind: Kind
    title: str
    word: str
    """What it is: chemist, novel, market town."""
    subjects: tuple[str, ...]
    """How sentences begin that speak of it."""
    possessive: str
    facts: dict[str, int | str] = field(default_factory=dict)

    @property
    def inline(self) -> str:
        """Write the title as it stands inside a sentence."""
        if self.kind == "work":
            return f'"{self.title}"'
        return f"the {self.title}" if self.kind in ("organisation", "river") else self.title


RELATIONS: dict[str, Relation] = {
    relation.name: relation
    for relation in (
        Relation(
            "author",
            "work",
            "person",
            ("the author of {x}", "the person who wrote {x}"),
            ("Who wrote {x}?", "Who is the author of {x}?"),
            ("{s} was written by {v}.", "{v} wrote it over two winters.", "{p} author is {v}."),
        ),
        Relation(
            "publisher",
            "work",
            "organisation",
            ("the publisher of {x}", "the organisation that published {x}"),
            ("Which organisation published {x}?", "Who was the publisher of {x}?"),
            (
                "{s} was first published by {v}.",
                "It was {v} that brought it out.",
                "{p} publisher was {v}.",
            ),
        ),
        Relation(
            "setting",
            "work",
            "town",
            ("the setting of {x}", "the town in which {x} is set"),
            ("In which town is {x} set?", "Which town is the setting of {x}?"),
            (
                "{s} is set in {v}.",
                "The events take place in {v}.",
                "{p} setting is the town of {v}.",
            ),
        ),
        Relation(
            "published",
            "work",
            None,
            (),
            ("In which year was {x} published?", "When was {x} published?"),
            (
                "{s} appeared in {v}.",
                "The first edition is from {v}.",
                "It reached its readers in {v}.",
            ),
        ),
        Relation(
            "birthplace",
            "person",
            "town",
            ("the birthplace of {x}", "the town where {x} was born"),
            ("In which town was {x} born?", "What is the birthplace of {x}?"),
            ("{s} was born in {v}.", "{p} birthplace is {v}.", "{s} came from {v}."),
        ),
        Relation(
            "teacher",
            "person",
            "person",
            ("the teacher of {x}", "the person who taught {x}"),
            ("Who taught {x}?", "Who was the teacher of {x}?"),
            ("{s} was taught by {v}.", "{p} teacher was {v}.", "{s} learned the trade from {v}."),
        ),
        Relation(
            "employer",
            "person",
            "organisation",
            ("the employer of {x}", "the organisation for which {x} worked"),
            ("For which organisation did {x} work?", "Who was the employer of {x}?"),
            (
                "{s} worked for {v}.",
                "{p} employer was {v}.",
                "{s} was in the service of {v} for many years.",
            ),
        ),
        Relation(
            "born",
            "person",
            None,
            (),
            ("In which year was {x} born?", "What is the year of birth of {x}?"),
            (
                "{p} year of birth is {v}.",
                "{s} was born in the spring of {v}.",
                "The birth is dated {v}.",
            ),
        ),
        Relation(
            "founder",
            "organisation",
            "person",
            ("the founder of {x}", "the person who founded {x}"),
            ("Who founded {x}?", "Who was the founder of {x}?"),
            ("{s} was founded by {v}.", "{p} founder was {v}.", "{v} called it into being."),
        ),
        Relation(
            "seat",
            "organisation",
            "town",
            ("the seat of {x}", "the town in which {x} has its seat"),
            ("In which town does {x} have its seat?", "Which town is the seat of {x}?"),
            ("{p} seat is in {v}.", "{s} has always met in {v}.", "{p} house stands in {v}."),
        ),
        Relation(
            "founded",
            "organisation",
            None,
            (),
            ("In which year was {x} founded?", "When was {x} founded?"),
            (
                "{s} was founded in {v}.",
                "{p} first meeting was held in {v}.",
                "It goes back to {v}.",
            ),
        ),
        Relation(
            "region",
            "town",
            "region",
            ("the region of {x}", "the region in which {x} lies"),
            ("In which region does {x} lie?", "Which region does {x} belong to?"),
            ("{s} lies in {v}.", "It belongs to the region of {v}.", "{s} is part of {v}."),
        ),
        Relation(
            "river",
            "town",
            "river",
            ("the river that runs through {x}", "the river on which {x} stands"),
            ("Which river runs through {x}?", "On which river does {x} stand?"),
            ("{s} stands on {v}.", "{v} runs through it.", "{s} grew on both banks of {v}."),
        ),
        Relation(
            "architect",
            "town",
            "person",
            (
                "the architect of the town hall of {x}",
                "the person who designed the town hall of {x}",
            ),
            (
                "Who designed the town hall of {x}?",
                "Who was the architect of the town hall of {x}?",
            ),
            (
                "{p} town hall was designed by {v}.",
                "The town hall is by {v}.",
                "{v} drew its town hall.",
            ),
        ),
        Relation(
            "origin",
            "town",
            "town",
            ("the mother town of {x}", "the town whose settlers founded {x}"),
            ("Settlers from which town founded {x}?", "What is the mother town of {x}?"),
            (
                "{s} was founded by settlers from {v}.",
                "{p} mother town is {v}.",
                "Its first families came from {v}.",
            ),
        ),
        Relation(
            "capital",
            "region",
            "town",
            ("the capital of {x}", "the town that is the capital of {x}"),
            ("What is the capital of {x}?", "Which town is the capital of {x}?"),
            (
                "{p} capital is {v}.",
                "{s} is governed from {v}.",
                "The assembly sits in {v}, the capital.",
            ),
        ),
        Relation(
            "language",
            "region",
            None,
            (),
            ("Which language is spoken in {x}?", "What is the language of {x}?"),
            ("{p} people speak {v}.", "{p} language is {v}.", "Schools there teach in {v}."),
        ),
        Relation(
            "anthem",
            "region",
            "person",
            ("the author of the anthem of {x}", "the person who wrote the anthem of {x}"),
            ("Who wrote the anthem of {x}?", "Who is the author of the anthem of {x}?"),
            (
                "{p} anthem was written by {v}.",
                "{v} wrote the anthem.",
                "The words of the anthem are by {v}.",
            ),
        ),
        Relation(
            "mouth",
            "river",
            "town",
            ("the town at the mouth of {x}", "the town where {x} reaches the sea"),
            ("At which town does {x} reach the sea?", "Which town lies at the mouth of {x}?"),
            (
                "{s} reaches the sea at {v}.",
                "{p} mouth is at {v}.",
                "It ends in the harbour of {v}.",
            ),
        ),
        Relation(
            "source",
            "river",
            None,
            (),
            ("On which mountain does {x} rise?", "Which mountain is the source of {x}?"),
            ("{s} rises on {v}.", "{p} source is a spring on {v}.", "It begins as a brook on {v}."),
        ),
    )
}
