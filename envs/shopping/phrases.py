"""Customers' words: one sentence from what a goal asks for, all of them from the goal::

    instruction(rng, "running shoes", ("arch support",), {"color": "teal"}, 60.0)
    # 'show me arch support running shoes in teal, and price lower than 60.00 dollars'

The same state of the generator gives the same sentence.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from .product import NO_LIMIT

_OPENERS = (
    "i am looking for",
    "i'm looking for",
    "i need",
    "i want to buy",
    "find me",
    "show me",
    "i would like",
    "can you find me",
    "please help me find",
    "get me",
    "i'm shopping for",
    "looking for",
    "i want",
)
_FORMS = (
    "{open} {described}{options}",
    "{open} {thing}{options}, {joined}",
    "{open} {thing}{options}. what matters to me is {joined}",
    "{open} {thing}{options}, described as {joined}",
    "not happy with my last {kind}. {open} something better{options}, {joined}",
    "{open} a gift: {thing}{options}, if possible {joined}",
    "{open} {thing}, {joined}{options}",
    "{open} {described}{options}, if you have that",
)
_NO_ARTICLE = ("s", "tea", "coffee", "mix", "shampoo", "sunscreen")


def instruction(
    rng: random.Random,
    kind: str,
    attributes: Sequence[str],
    options: Mapping[str, str],
    limit: float,
) -> str:
    """Write a request as a person types it; the price limit is worded as upstream does."""
    wishes = [option(axis, value) for axis, value in options.items()]
    text = rng.choice(_FORMS).format(
        open=rng.choice(_OPENERS),
        kind=kind,
        thing=a(kind, kind),
        described=a(kind, f"{', '.join(attributes)} {kind}"),
        joined=listed(attributes),
        options=f" {rng.choice((', ', ' and ')).join(wishes)}" if wishes else "",
    )
    return text + price_text(limit)


def price_text(limit: float) -> str:
    """Write the end of an instruction, its price limit, as upstream does; '' without a limit."""
    return "" if limit == NO_LIMIT else f", and price lower than {limit:.2f} dollars"


def a(kind: str, described: str) -> str:
    """Put an article before words for a thing of some kind, where it takes one.

    So 'a steel phone case', 'an area rug', 'running shoes'.
    """
    if kind.endswith(_NO_ARTICLE):
        return described
    return f"{'an' if described[0] in 'aeio' else 'a'} {described}"


def option(axis: str, value: str) -> str:
    """Write an option in words: 'in teal', 'in size 9', 'with finish matte'."""
    return (
        f"in {value}"
        if axis == "color"
        else f"in size {value}"
        if axis == "size"
        else f"with {axis} {value}"
    )


def listed(items: Sequence[str]) -> str:
    """Join texts to 'a', 'a and b' or 'a, b and c'."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
