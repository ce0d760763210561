"""The requests of the assistant's customers, and which facts hold of a recommendation.

A request names one to three kinds of products with attributes and options, a budget for all of
them, and aspects that the reasons must tell. It is made from products of the task's split, so it
can be met::

    wish = request(shop, "test", seed=2_000_000, items=2)
    facts(wish, picks, "Both are made in Canada and arrive the next day.")
    # ['constraint:products', 'constraint:attributes', ..., 'aspect:origin']
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..task import Split
from .phrases import a, listed, option
from .product import Product
from .shop import Shop
from .vocabulary import ASPECTS

CONSTRAINTS = ("products", "attributes", "options", "budget")
ASKED_ASPECTS = 2
_STEP = 5
"""Budgets are multiples of so many dollars."""
_OPENERS = (
    "Hi! I need {}.",
    "Hello, can you help me find {}?",
    "I am looking for {}.",
    "Please find me {}.",
    "Good morning! I would like {}.",
)
_BUDGETS = (
    "I can spend ${} at most{}.",
    "My budget is ${}{}.",
    "It must not cost more than ${}{}.",
    "Please stay within ${}{}.",
)
_ASKED = (
    "When you recommend something, tell me the {}.",
    "I also want to know the {}.",
    "What is the {}?",
    "In your answer, mention the {}.",
)


@dataclass(frozen=True)
class RequestedItem:
    """One of the things asked for."""

    kind: str
    attributes: tuple[str, ...]
    options: Mapping[str, str]
    target: Product
    """What it was written for; anything else that fits is as good."""
    share: float
    """Of the budget, in dollars: the price of the target and something more."""

    def fits(self, product: Product) -> bool:
        """Tell whether a product has the kind, all attributes and all option values."""
        return (
            product.query == self.kind
            and set(self.attributes) <= set(product.attributes)
            and all(value in product.options.get(axis, ()) for axis, value in self.options.items())
        )


@dataclass(frozen=True)
class ShoppingRequest:
    """A customer's words and what they mean."""

    text: str
    items: tuple[RequestedItem, ...]
    budget: int
    """Dollars, for all items together."""
    aspects: tuple[str, ...]


@dataclass(frozen=True)
class Pick:
    """A recommended product with its options."""

    product: Product
    options: Mapping[str, str]


def request(shop: Shop, split: Split, seed: int, items: int) -> ShoppingRequest:
    """Write the request of a seed: `items` different kinds of products of a split.

    They are of one department where it has so many.
    """
    rng = random.Random(f"request {seed} {items}")
    pool = shop.by_kind(split)
    kinds = [rng.choice(list(pool))]
    department = pool[kinds[0]][0].department
    while len(kinds) < items:
        others = [kind for kind in pool if kind not in kinds]
        near = [kind for kind in others if pool[kind][0].department == department]
        kinds.append(rng.choice(near or others))
    targets = [rng.choice(pool[kind]) for kind in kinds]
    wanted = tuple(_item(rng, target) for target in targets)
    budget = math.ceil(sum(item.share for item in wanted) / _STEP) * _STEP
    shared = [
        aspect for aspect in targets[0].specs if all(aspect in target.specs for target in targets)
    ]
    aspects = tuple(rng.sample(shared, ASKED_ASPECTS))
    things = listed([_worded(rng, item) for item in wanted])
    text = " ".join(
        (
            rng.choice(_OPENERS).format(things),
            rng.choice(_BUDGETS).format(budget, " in total" if items > 1 else ""),
            rng.choice(_ASKED).format(listed(aspects)),
        )
    )
    return ShoppingRequest(text, wanted, budget, aspects)


def _item(rng: random.Random, target: Product) -> RequestedItem:
    attributes = tuple(rng.sample(target.attributes, rng.choice((1, 1, 2))))
    axes = rng.sample(sorted(target.options), 1) if rng.random() < 0.6 else []
    options = {axis: rng.choice(target.options[axis]) for axis in axes}
    return RequestedItem(
        target.query, attributes, options, target, target.price * rng.uniform(1.1, 1.5)
    )


def _worded(rng: random.Random, item: RequestedItem) -> str:
    options = "".join(f" {option(axis, value)}" for axis, value in item.options.items())
    if rng.random() < 0.5:
        return a(item.kind, f"{', '.join(item.attributes)} {item.kind}{options}")
    return a(item.kind, f"{item.kind}{options}") + f" ({', '.join(item.attributes)})"


def facts(wish: ShoppingRequest, picks: Sequence[Pick], reasons: str) -> list[str]:
    """Name the constraints that hold, then the aspects that the reasons tell, in a fixed order.

    All constraints but the products themselves hold only for the right kinds of products.
    """
    chosen = {pick.product.query: pick for pick in picks}
    right = len(picks) == len(wish.items) and set(chosen) == {item.kind for item in wish.items}
    held = {"products": right}
    if right:
        pairs = [(item, chosen[item.kind]) for item in wish.items]
        held["attributes"] = all(
            set(item.attributes) <= set(pick.product.attributes) for item, pick in pairs
        )
        held["options"] = all(item.options.items() <= pick.options.items() for item, pick in pairs)
        held["budget"] = sum(pick.product.price for pick in picks) <= wish.budget
    told = [
        aspect
        for aspect in wish.aspects
        if tells(reasons, aspect, [pick.product for pick in picks])
    ]
    return [f"constraint:{name}" for name in CONSTRAINTS if held.get(name)] + [
        f"aspect:{name}" for name in told
    ]


def tells(reasons: str, aspect: str, products: Sequence[Product]) -> bool:
    """Tell whether a text gives an aspect of every product, and no value that none of them has."""
    true = {product.specs.get(aspect, "") for product in products}
    said = {value for value in ASPECTS[aspect] if _plain(value) in _plain(reasons)}
    return bool(products) and said == true


def _plain(text: str) -> str:
    return f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} "
