"""The generated catalogue: products, look-alikes and goals, the same for one size on every machine.

Most products have one to three look-alikes: the same title, but one value of one option, the price
or one attribute differs. A goal asks for what tells its product from them. Families come in random
order, so any range of families is a fair sample, and splits of goals share no family::

    catalogue = generate(300)
    catalogue.goals[0].instruction
    # "i need hand stitched travel backpack in sand, and price lower than 90.00 dollars"

The words, prices and requests are ours; nothing is taken from a real shop.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from .phrases import instruction
from .product import NO_LIMIT, Product, ShoppingGoal, limits_above
from .reward import score
from .vocabulary import ASPECTS, AXES, COMMON_ASPECTS, KINDS, SYLLABLES, Kind

VERSION = 1
"""Part of every cached file's name: raise it when the same size would give other products or goals.
"""
_PURPOSES = (
    "everyday use",
    "busy weeks",
    "people who travel",
    "a calm home",
    "weekends",
    "beginners and experts",
)
_LOOKALIKES = (0, 1, 1, 2, 2, 3)


@dataclass(frozen=True)
class Catalogue:
    """Products by their number, and what customers want."""

    products: list[Product]
    goals: list[ShoppingGoal]

    def save(self, path: Path) -> None:
        """Write the catalogue as JSON: per product and goal its values, in the order of fields."""
        rows = {
            "products": [_row(p) for p in self.products],
            "goals": [_row(g) for g in self.goals],
        }
        path.write_text(json.dumps(rows, separators=(",", ":")), "utf-8")

    @classmethod
    def load(cls, path: Path) -> Catalogue:
        """Read a catalogue that `save` wrote."""
        rows = json.loads(path.read_text("utf-8"))
        return cls(
            [Product(*map(_frozen, row)) for row in rows["products"]],
            [ShoppingGoal(*map(_frozen, row)) for row in rows["goals"]],
        )


def _row(thing: Product | ShoppingGoal) -> list[Any]:
    return [getattr(thing, field.name) for field in fields(thing)]


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return (
        {key: _frozen(inner) for key, inner in value.items()} if isinstance(value, dict) else value
    )


@dataclass(frozen=True)
class _Lookalike:
    """A product that differs from another in one thing, and how each of the two is told by it."""

    product: Product
    base_option: Mapping[str, str]
    own_option: Mapping[str, str]
    base_attributes: tuple[str, ...] = ()
    own_attributes: tuple[str, ...] = ()


def generate(count: int, advance: Callable[[int], None] = lambda made: None) -> Catalogue:
    """Make the catalogue of `count` products.

    `advance` is told how many were made since it was last called.
    """
    rng = random.Random(f"turnrl shop {VERSION} {count}")
    products: list[Product] = []
    goals: list[ShoppingGoal] = []
    asins: set[str] = set()
    requests: set[str] = set()
    for number, kind in enumerate(_kinds(rng)):
        base = _product(rng, kind, number, _asin(rng, asins))
        family = [
            _lookalike(rng, kind, base, _asin(rng, asins)) for _ in range(rng.choice(_LOOKALIKES))
        ]
        family = family[: count - len(products) - 1]
        products += [base, *(other.product for other in family)]
        goal = _goal(rng, base, family)
        if goal is not None and goal.instruction not in requests:
            requests.add(goal.instruction)
            goals.append(goal)
        advance(1 + len(family))
        if len(products) == count:
            return Catalogue(products, goals)
    raise AssertionError("unreachable")


def _kinds(rng: random.Random) -> Iterator[Kind]:
    """Yield all kinds again and again, each round in another order."""
    while True:
        yield from rng.sample(KINDS, len(KINDS))


def _asin(rng: random.Random, taken: set[str]) -> str:
    while True:
        asin = "B0" + "".join(rng.choices(string.ascii_uppercase + string.digits, k=8))
        if asin not in taken:
            taken.add(asin)
            return asin


def _product(rng: random.Random, kind: Kind, family: int, asin: str) -> Product:
    brand = "".join(rng.choice(part) for part in SYLLABLES)
    model = f"{rng.choice(string.ascii_uppercase)}{rng.randrange(10, 1000)}"
    attributes = tuple(rng.sample(kind.aisle.attributes, rng.choice((4, 5))))
    highlights = ", ".join(attribute.title() for attribute in attributes[:2])
    specs = {
        aspect: rng.choice(ASPECTS[aspect]) for aspect in (*COMMON_ASPECTS, *kind.aisle.aspects)
    }
    price = float(rng.randrange(int(kind.low), int(kind.high))) + rng.choice(
        (0.0, 0.49, 0.95, 0.99)
    )
    return Product(
        asin=asin,
        title=f"{brand} {kind.name.title()} - {highlights}, {model}",
        description=(
            f"From {brand}: {kind.name} for {rng.choice(_PURPOSES)}, with attention to every"
            " detail."
        ),
        bullets=_bullets(attributes, specs),
        attributes=attributes,
        options={AXES[key][0]: _values(rng, key) for key in kind.axes},
        query=kind.name,
        department=kind.aisle.department,
        product_category=" › ".join((kind.aisle.department, kind.aisle.name, kind.name.title())),
        price=price,
        price_tag=f"${price}",
        nouns=(brand.lower(), *kind.nouns),
        specs=specs,
        family=family,
    )


def _bullets(attributes: tuple[str, ...], specs: Mapping[str, str]) -> tuple[str, ...]:
    """Write the attributes that the title does not name, then the specifications."""
    return (
        *(f"{attribute.capitalize()}, as you would expect" for attribute in attributes[2:]),
        *(f"{aspect.capitalize()}: {value}" for aspect, value in specs.items()),
    )


def _values(rng: random.Random, key: str) -> tuple[str, ...]:
    """Draw some values of an axis, in the order of the pool."""
    pool = AXES[key][1]
    kept = set(rng.sample(range(len(pool)), rng.randrange(3, min(len(pool), 7) + 1)))
    return tuple(value for place, value in enumerate(pool) if place in kept)


def _lookalike(rng: random.Random, kind: Kind, base: Product, asin: str) -> _Lookalike:
    """Make a product like `base` under another asin, with one difference.

    Mostly it is an option, sometimes the price or an attribute.
    """
    draw = rng.random()
    if draw < 0.2:
        price = round(base.price * rng.uniform(1.25, 1.6) + 5) + 0.99
        return _Lookalike(replace(base, asin=asin, price=price, price_tag=f"${price}"), {}, {})
    if draw < 0.4:
        gone = rng.choice(base.attributes[2:])
        new = rng.choice([a for a in kind.aisle.attributes if a not in base.attributes])
        attributes = tuple(new if attribute == gone else attribute for attribute in base.attributes)
        other = replace(
            base, asin=asin, attributes=attributes, bullets=_bullets(attributes, base.specs)
        )
        return _Lookalike(other, {}, {}, (gone,), (new,))
    axes = {
        AXES[key][0]: AXES[key][1]
        for key in kind.axes
        if len(AXES[key][1]) > len(base.options[AXES[key][0]])
    }
    if not axes:
        return _Lookalike(
            replace(base, asin=asin, price=base.price + 30, price_tag=f"${base.price + 30}"), {}, {}
        )
    axis = rng.choice(sorted(axes))
    gone = rng.choice(base.options[axis])
    new = rng.choice([value for value in axes[axis] if value not in base.options[axis]])
    values = tuple(
        value
        for value in axes[axis]
        if value == new or (value in base.options[axis] and value != gone)
    )
    other = replace(base, asin=asin, options={**base.options, axis: values})
    return _Lookalike(other, {axis: gone}, {axis: new})


def _goal(rng: random.Random, base: Product, family: list[_Lookalike]) -> ShoppingGoal | None:
    """Write what someone asks who wants one of a family; None if buying it is not worth 1."""
    target, attributes, options = base, list[str](), dict[str, str]()
    if family and rng.random() < 0.5:
        chosen = rng.choice(family)
        target, attributes, options = (
            chosen.product,
            list(chosen.own_attributes),
            dict(chosen.own_option),
        )
    else:
        for other in family:
            attributes += (
                attribute for attribute in other.base_attributes if attribute not in attributes
            )
            options = {**other.base_option, **options}
    rest = [attribute for attribute in target.attributes if attribute not in attributes]
    attributes += rng.sample(rest, max(0, rng.choice((1, 2, 2, 3)) - len(attributes)))
    for axis, values in target.options.items():
        if axis not in options and rng.random() < 0.5:
            options[axis] = rng.choice(values)
    limits = limits_above(target.price)
    limit = max(rng.sample(limits, 2)) if len(limits) >= 2 else NO_LIMIT
    goal = ShoppingGoal(
        asin=target.asin,
        instruction=instruction(rng, target.query, attributes, options, limit),
        attributes=tuple(attributes),
        options=tuple(options.values()),
        price_upper=limit,
        query=target.query,
        product_category=target.product_category,
        nouns=target.nouns,
        family=target.family,
    )
    return goal if score(target, goal, options).total == 1 else None
