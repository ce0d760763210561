"""WebShop's reward, exactly: how well a purchase fits a goal, in [0, 1].

``reward = r_type * (attributes matched + options matched + [price <= limit]) / (attributes +
options asked for + 1)``

r_type is decided in this order, the last rule that applies wins: 1; 0.5 if neither the query is the
same, nor two parts of the category, nor more than a fifth of the goal's nouns; 0.1 below a tenth of
the nouns; 0 if none is shared. The last two override a matching query. An attribute counts if it
resembles one of the product's or is contained in its texts; an option counts if it resembles a
chosen one, both reduced to a colour word if they contain one::

    score(product, goal, {"color": "dark blue"}).total

Facts from princeton-nlp/WebShop (MIT), `web_agent_site/engine/goal.py` and `normalize.py`;
similarity is that of thefuzz, computed by rapidfuzz.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from rapidfuzz import fuzz, utils

from .product import Product, ShoppingGoal

COLOURS = tuple(
    "alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown"
    " burgundy camel camo caramel champagne charcoal cheetah chestnut chocolate christmas coffee"
    " cognac copper coral cranberry cream crystal dark denim eggplant elephant espresso fuchsia"
    " gold granite grape graphite grass gray green grey heather indigo ivory ivy khaki lavender"
    " lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor"
    " mushroom mustard natural navy nude olive orange peach pewter pink plum purple rainbow red"
    " rose royal rust sand sapphire seashell silver skull slate steel stone stonewash sunflower tan"
    " taupe teal tiger turquoise violet walnut wheat white wine yellow".split()
)
"""In upstream's order, which decides: 'navy blue' is blue, 'titanium' is tan."""
_ALIKE = 85
_LATIN = dict.fromkeys(range(128, 256))


@dataclass(frozen=True)
class Score:
    """The worth of a purchase, part by part."""

    type: float
    """0, 0.1, 0.5 or 1."""
    attributes: int
    options: int
    price: bool
    asked: int
    """How many attributes and options the goal has, plus one for the price."""

    @property
    def total(self) -> float:
        """Compute the reward from its parts."""
        return (self.attributes + self.options + self.price) / self.asked * self.type


def score(product: Product, goal: ShoppingGoal, chosen: Mapping[str, str]) -> Score:
    """Compute the parts of the reward for buying a product with these options (axis -> value)."""
    asked = wanted_options(goal)
    got = [colour(value) for value in chosen.values()]
    return Score(
        type=_type(product, goal),
        attributes=sum(_has(product, attribute) for attribute in goal.attributes),
        options=sum(any(alike(value, want) for value in got) for want in asked),
        price=product.price <= goal.price_upper,
        asked=len(goal.attributes) + len(asked) + 1,
    )


def wanted_options(goal: ShoppingGoal) -> list[str]:
    """List the goal's options as they are compared.

    Upstream compares synthetic ones as the text of (axis, value) pairs.
    """
    if isinstance(goal.options, Mapping):
        return [next((c for c in COLOURS if c in pair), str(pair)) for pair in goal.options.items()]
    return [colour(value) for value in goal.options]


@lru_cache(65536)
def colour(value: str) -> str:
    """Return the first colour word contained in a value, else the value itself."""
    return next((c for c in COLOURS if c in value), value)


@lru_cache(65536)
def alike(one: str, other: str) -> bool:
    """Tell whether two texts' token-set similarity is above 85 of 100.

    It is where one has all words of the other ('x-large', 'large').
    """
    return round(fuzz.token_set_ratio(one, other, processor=_plain)) > _ALIKE


def _plain(text: str) -> str:
    """Reduce a text as thefuzz does: without Latin-1 beyond ASCII, words in lower case.

    'café' is 'caf'.
    """
    return utils.default_process(text.translate(_LATIN))


def _has(product: Product, attribute: str) -> bool:
    if any(alike(own, attribute) for own in product.attributes):
        return True
    texts = (product.title, " ".join(product.bullets), product.description)
    return any(attribute in text.lower() for text in texts)


def _type(product: Product, goal: ShoppingGoal) -> float:
    same = len(_parts(product.product_category) & _parts(goal.product_category))
    title = len(set(product.nouns) & set(goal.nouns)) / len(goal.nouns) if goal.nouns else 0.2
    if title == 0:
        return 0.0
    if title < 0.1:
        return 0.1
    return 1.0 if product.query == goal.query or same >= 2 or title > 0.2 else 0.5


def _parts(category: str) -> set[str]:
    return {part.strip() for part in category.split("›")}
