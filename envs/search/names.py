"""Invented names: pronounceable, unique, and alike on purpose.

Surnames are shared by a few people and by organisations that have nothing to do with them, towns
come as ``Velmar`` and ``Upper Velmar``, titles of works share their nouns. Who searches for one
finds the others too.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from .score import normalise

_ONSETS = "b br c d dr f fl g gr h j k kr l m n p r s sk st t th tr v w".split()
_VOWELS = "a e i o u ae ei ou".split()
_CODAS = "l n r s t m nd lt rn sk ck th v x".split()
_TOWNS = "mar burg stead ford haven wick holm dorf by ton field gate".split()
_REGIONS = "ia land mark wold shire esse".split()
_PREFIXES = "Upper Lower New Old East West".split()
WOMEN = (
    "Ada Agnes Alma Anna Astrid Berta Clara Cora Dora Edith Elin Elsa Emma Flora Frida Gerda Greta"
    " Hanna Helga Ida Inga Irma Johanna Julia Karla Lena Lotte Magda Maria Marta Mina Nora Olga"
    " Paula Rosa Ruth Selma Thea Vera Wanda"
).split()
MEN = (
    "Adam Albert Anton Arne Bruno Carl Conrad Daniel David Emil Erik Felix Franz Georg Gustav Hans"
    " Hugo Ivan Jakob Johan Josef Julius Karl Kurt Leo Ludwig Magnus Martin Max Moritz Nils Olaf"
    " Oskar Otto Paul Peter Rolf Simon Viktor"
).split()
_ADJECTIVES = (
    "Amber Ancient Bitter Blue Borrowed Bright Broken Burning Cold Crooked Distant Drowned Early"
    " Empty Fallen Final First Forgotten Frozen Gentle Golden Green Grey Hidden Hollow Honest Idle"
    " Iron Last Late Lost Narrow Northern Paper Patient Quiet Red Restless Scarlet Second Secret"
    " Silent Silver Slow Small Stolen Summer Velvet White Winter"
).split()
_NOUNS = (
    "Anchor Apple Bell Bird Bridge Candle Castle Chair Clock Crown Door Dream Envelope Feather"
    " Field Fire Forest Fox Garden Ghost Glass Harbour Harvest House Island Key Ladder Lake Lamp"
    " Letter Lighthouse Lion Map Mask Mill Mirror Moon Mountain Night Ocean Orchard Owl Promise"
    " Rain River Road Rose Sail Shadow Ship Shore Snow Song Sparrow Star Stone Storm Street Swan"
    " Thread Tide Tower Train Valley Village Voice Wall Well Window Wolf Year"
).split()
_BODIES = (
    "Academy Archive Association Company Guild Institute League Library Press Society Trust"
    " Union".split()
)
FIELDS = (
    "Astronomy Botany Cartography Ceramics Chemistry Forestry Geology Glassmaking History Horology"
    " Hydrology Linguistics Mechanics Medicine Metallurgy Mineralogy Music Navigation Optics"
    " Ornithology Painting Philosophy Printing Theatre"
).split()


class Namer:
    """Draws names that were not drawn before.

    Args:
        rng: where randomness comes from.
        people: how many people there will be; four of them share a surname, on average.
    """

    def __init__(self, rng: random.Random, people: int) -> None:
        self._rng, self._used = rng, set[str]()
        self._surnames = [self._fresh(self._surname) for _ in range(max(8, people // 4))]
        self._plain: list[str] = []

    def person(self, given: list[str]) -> str:
        """Draw a first name of `given` and a shared surname; an initial where both were taken."""
        return self._fresh(
            lambda: f"{self._rng.choice(given)} {self._rng.choice(self._surnames)}", self._initial
        )

    def town(self) -> str:
        """Draw a town; every fourth is called after an older one: Upper Velmar."""
        if self._plain and self._rng.random() < 0.25:
            return self._fresh(
                lambda: f"{self._rng.choice(_PREFIXES)} {self._rng.choice(self._plain)}"
            )
        name = self._fresh(lambda: self._stem() + self._rng.choice(_TOWNS))
        self._plain.append(name)
        return name

    def region(self) -> str:
        """Draw a region, in one word."""
        return self._fresh(lambda: self._stem() + self._rng.choice(_REGIONS))

    def river(self) -> str:
        """Draw a river: River and a word."""
        return self._fresh(lambda: f"River {self._stem()}e")

    def mountain(self) -> str:
        """Draw a mountain, in one word."""
        return self._fresh(
            lambda: self._stem() + self._rng.choice(("spitz", "horn", "fell", "stock"))
        )

    def language(self) -> str:
        """Draw a language, in one word without a likeness to the region where it is spoken."""
        return self._fresh(lambda: self._stem() + self._rng.choice(("ish", "ese", "ic", "an")))

    def organisation(self) -> str:
        """Draw an organisation: a surname, a kind of body and, for most, what it is about."""
        return self._fresh(self._organisation)

    def work(self) -> str:
        """Draw the title of a work."""
        return self._fresh(
            self._title, lambda title: f"{title} of {self._rng.choice(self._surnames)}"
        )

    def _fresh(self, draw: Callable[[], str], rescue: Callable[[str], str] | None = None) -> str:
        for attempt in range(1000):
            name = draw()
            # Where few names are left, longer ones are tried.
            if attempt > 20 and rescue is not None:
                name = rescue(name)
            # Two names that differ in an article only would be one answer.
            if normalise(name) not in self._used:
                self._used.add(normalise(name))
                return name
        raise RuntimeError("the generator of names is exhausted")

    def _initial(self, name: str) -> str:
        first, _, rest = name.partition(" ")
        return f"{first} {self._rng.choice('ABCDEFGHIJKLMNOPRSTVW')}. {rest}"

    def _syllable(self) -> str:
        return self._rng.choice(_ONSETS) + self._rng.choice(_VOWELS) + self._rng.choice(_CODAS)

    def _stem(self) -> str:
        return (
            self._syllable() + (self._rng.choice(_VOWELS[:5]) if self._rng.random() < 0.4 else "")
        ).capitalize()

    def _surname(self) -> str:
        return (
            self._syllable() + self._rng.choice(("en", "er", "a", "o", "is", "ek", "ova", "ard"))
        ).capitalize()

    def _organisation(self) -> str:
        about = f" of {self._rng.choice(FIELDS)}" if self._rng.random() < 0.7 else ""
        return f"{self._rng.choice(self._surnames)} {self._rng.choice(_BODIES)}{about}"

    def _title(self) -> str:
        a, b, adjective = (
            self._rng.choice(_NOUNS),
            self._rng.choice(_NOUNS),
            self._rng.choice(_ADJECTIVES),
        )
        pattern = self._rng.choice(
            ("The {j} {a}", "The {a} and the {b}", "{a} without {b}", "{j} {a}, {j2} {b}")
        )
        return pattern.format(a=a, b=b, j=adjective, j2=self._rng.choice(_ADJECTIVES))
