"""What the pages of the generated encyclopedia say, beside their facts.

``{s}``, ``{p}`` and ``{v}`` are those of `relations`; on pages the sentences of facts come in any
order between sentences that answer nothing.
"""

from __future__ import annotations

import random

from .names import FIELDS
from .relations import RELATIONS, Entity, Kind

WORDS: dict[Kind, tuple[str, ...]] = {
    "person": (
        "chemist",
        "composer",
        "engineer",
        "painter",
        "surveyor",
        "physician",
        "botanist",
        "printer",
        "poet",
    ),
    "work": (
        "novel",
        "play",
        "memoir",
        "travel book",
        "history",
        "collection of poems",
        "collection of stories",
    ),
    "town": ("market town", "harbour town", "mining town", "mill town", "small town", "spa town"),
    "organisation": (
        "learned body",
        "private foundation",
        "charity",
        "trading house",
        "public body",
    ),
    "region": (
        "hilly region",
        "coastal region",
        "wooded region",
        "dry region",
        "mountainous region",
    ),
    "river": ("slow river", "swift river", "navigable river", "winding river"),
}
_OPENINGS: dict[Kind, tuple[str, ...]] = {
    "person": (
        "{t} was a {w}.",
        "{t}, a {w}, is remembered for work on {f}.",
        "The {w} {t} left writings on {f}.",
    ),
    "work": (
        "{i} is a {w}.",
        "{i} is a {w} in {n} chapters.",
        "{i}, a {w}, is read in many schools.",
    ),
    "town": (
        "{t} is a {w}.",
        "{t} is a {w} with {n}00 inhabitants.",
        "The {w} of {t} is known for its fairs.",
    ),
    "organisation": (
        "The {t} is a {w}.",
        "The {t}, a {w}, has {n} members.",
        "The {t} is a {w} that cares for {f}.",
    ),
    "region": ("{t} is a {w}.", "{t} is a {w} of {n} parishes.", "{t}, a {w}, is thinly settled."),
    "river": (
        "The {t} is a {w}.",
        "The {t} is a {w}, {n} kilometres long.",
        "The {t}, a {w}, floods in most springs.",
    ),
}
_FILLERS: dict[Kind, tuple[str, ...]] = {
    "person": (
        "{s} travelled little and wrote many letters.",
        "{p} notebooks fill {n} boxes.",
        "{s} had {m} children.",
        "A portrait shows a thin face and a large dog.",
        "{s} also published {m} papers on {f}.",
        "Late in life {s1} lost the sight of one eye.",
        "A street in the neighbourhood carries the name to this day.",
    ),
    "work": (
        "Critics were slow to warm to it.",
        "It has been translated {m} times.",
        "The manuscript has {n} pages.",
        "A later edition adds a preface on {f}.",
        "It was out of print for {n} years.",
        "Readers like the dry humour of its narrator.",
        "A film was planned and given up.",
    ),
    "town": (
        "The weekly market draws farmers from {n} villages.",
        "A fire destroyed {n} houses in one night.",
        "The museum shows a collection on {f}.",
        "Its football club won the cup {m} times.",
        "Two railway lines meet here.",
        "The old walls are {m} metres high.",
        "Most families live from trade.",
    ),
    "organisation": (
        "It gives a prize for work on {f}.",
        "It owns a library of {n} thousand volumes.",
        "Its yearbook has {n} subscribers.",
        "Meetings are held on the first Monday of the month.",
        "It has {m} honorary members.",
        "Its archive is open to visitors.",
        "Women were admitted after {m} refusals.",
    ),
    "region": (
        "Its flag has {m} stripes.",
        "Sheep outnumber people by {m} to one.",
        "The winters are long.",
        "Its schools are known for {f}.",
        "It has {n} lakes.",
        "The roads are good and the inns are better.",
        "Apples, wool and timber are its exports.",
    ),
    "river": (
        "It is crossed by {n} bridges.",
        "Salmon are caught in its upper course.",
        "It drives {n} mills.",
        "A book on {f} describes its banks.",
        "It froze over {m} times in a century.",
        "Barges carry stone and timber.",
        "Its valley is famous for cherries.",
    ),
}


def page(entity: Entity, values: dict[str, str], rng: random.Random) -> str:
    """Write the text of a page.

    `values` gives each relation's value as it reads inside a sentence.
    """
    facts = [
        _say(rng.choice(RELATIONS[name].sentences), entity, rng).replace("{v}", value)
        for name, value in values.items()
    ]
    fillers = rng.sample(_FILLERS[entity.kind], rng.randint(1, 6))
    body = facts + [_say(sentence, entity, rng) for sentence in fillers]
    rng.shuffle(body)
    opening = _say(rng.choice(_OPENINGS[entity.kind]), entity, rng)
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in [opening, *body])


def _say(sentence: str, entity: Entity, rng: random.Random) -> str:
    subject = rng.choice(entity.subjects)
    for place, words in (
        ("{s}", subject),
        ("{s1}", entity.subjects[0].lower()),
        ("{p}", entity.possessive),
        ("{w}", entity.word),
        ("{t}", entity.title),
        ("{i}", entity.inline),
        ("{f}", rng.choice(FIELDS).lower()),
        ("{n}", str(rng.randint(12, 98))),
        ("{m}", str(rng.randint(2, 11))),
    ):
        sentence = sentence.replace(place, words)
    return sentence
