"""Product and Goal: what a shop sells and what a customer wants, as data.

Everything that a reward depends on is in them (prices, limits, nouns), so nothing depends on a
global random state. The words are those of WebShop's files: an *axis* is an option's name
('color'), an *asin* a product's id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

GoalOptions = tuple[str, ...] | Mapping[str, str]
"""Values alone (human goals) or axis -> value (synthetic goals): the two are scored differently."""


@dataclass(frozen=True)
class Product:
    """One product; its options do not change its price."""

    asin: str
    """Ten characters, unique."""
    title: str
    description: str
    bullets: tuple[str, ...]
    attributes: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]]
    """Axis -> values, lower case."""
    query: str
    """The kind of product in a shopper's words, lower case: 'running shoes'."""
    department: str
    product_category: str
    """From wide to narrow, joined by ' › '."""
    price: float
    """Dollars."""
    price_tag: str
    """As shown: '$19.99', or '$19.99 to $27.99' where options cost differently."""
    nouns: tuple[str, ...]
    """Nouns of the title in lower case, repeats included."""
    specs: Mapping[str, str] = field(default_factory=dict)
    """Aspect -> value, as in {'origin': 'made in Canada'}; generated products only."""
    family: int = -1
    """Number shared with its look-alikes; generated products only."""

    @property
    def text(self) -> str:
        """Write what is searched beside the title: description, first bullet, options."""
        options = ", and ".join(
            f"{axis}: {', '.join(values)}" for axis, values in self.options.items()
        )
        return " ".join((self.description, *self.bullets[:1], options)).lower()


@dataclass(frozen=True)
class ShoppingGoal:
    """The wish of one customer, and the product it was written for."""

    asin: str
    instruction: str
    attributes: tuple[str, ...]
    options: GoalOptions
    price_upper: float
    """Dollars; 1,000,000 for no limit."""
    query: str
    product_category: str
    nouns: tuple[str, ...]
    """Of the title of its product, repeats included."""
    family: int = -1

    @property
    def plain(self) -> str:
        """Write the search that takes no thought: the words of the instruction before the price."""
        return typed(self.instruction.partition(", and price lower than ")[0]) or self.query

    @property
    def searches(self) -> list[str]:
        """List searches that follow from the instruction, the fullest first."""
        values = list(self.options.values() if isinstance(self.options, Mapping) else self.options)
        few = [[*self.attributes, self.query], *([a, self.query, *values] for a in self.attributes)]
        return [typed(" ".join(words)) for words in ([*self.attributes, self.query, *values], *few)]


_UNTYPED = re.compile(r"[\[\]<>\\\s\x00-\x1f\x7f]+")
_TYPED_CHARS = 300


def typed(words: str) -> str:
    """Write words as they can stand in a search: one line, no brackets, at most 300 characters."""
    return _UNTYPED.sub(" ", words)[:_TYPED_CHARS].strip()


NO_LIMIT = 1_000_000.0
_GRID = [10.0 * step for step in range(1, 100)]


def limits_above(price: float) -> list[float]:
    """List the price limits that a goal may get: the next four multiples of ten dollars.

    Near 990 there are fewer.
    """
    return [limit for limit in _GRID if limit > price][:4]
