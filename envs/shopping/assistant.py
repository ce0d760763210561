"""shopping/assistant-v0: a customer asks, the assistant searches, compares, recommends::

    env = turnrl.make("shopping/assistant-v0", items=2)
    text, info = env.reset(options={"task": env.tasks("test")[0]})
    text, reward, terminated, truncated, info = env.step("search[waterproof camping tent]")

What a recommendation achieves is told as milestones, which rewards read: 'valid';
'constraint:products', 'constraint:attributes', 'constraint:options' and 'constraint:budget';
'aspect:NAME' for each of the two aspects that were asked for. 'found:KIND' is reached on the way,
when a search lists something that fits. They speak of what was done and said to the customer, never
of thoughts.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from ..core import Outcome, TextEnv
from ..sanitise import Grammar, composed
from ..task import Task, split_of
from ..tools import tool
from .product import Product
from .requests import CONSTRAINTS, Pick, RequestedItem, ShoppingRequest, facts, request
from .settings import AssistantSettings
from .shop import NewCodes, shop_for

LISTED, COMPARED = 10, 4
RENAMINGS = 15
"""Symmetries: how many ways of giving products each other's codes."""
_ACTION = re.compile(r"(search|view|compare|recommend)\[(.*)\]")
_FOUND, _SEEN = 0.3, 0.6
_RECOMMEND = "recommend[ID option=value, option=value; ID option=value | reasons]"


class AssistantEnv(TextEnv):
    """Recommend what a customer asks for, with reasons."""

    Settings = AssistantSettings
    settings: AssistantSettings
    sizes = {"train": 10_000, "valid": 200, "test": 200}  # noqa: RUF012
    instructions = (
        "You are a shop assistant. Find what the customer asks for: the right products, attributes"
        " and options, within the budget. Answer with one action per turn:\nsearch[keywords] -"
        " lists up to ten products\nview[ID] - one product in detail\ncompare[ID, ID] - up to four"
        f" products side by side\n{_RECOMMEND} - your final answer, for"
        " example\nrecommend[B012345678 color=teal; B087654321 size=9 | Both are made in Canada"
        " and arrive the next day.]\nRecommend only what a search has shown, one product for each"
        " thing asked for. The reasons must tell what the customer wants to know, in the words of"
        " the product page."
    )
    grammar = Grammar(chaining=True, deny=frozenset(), max_chars=1024)
    tools = [  # noqa: RUF012
        tool("search", "List up to ten products.", keywords="what to look for"),
        tool("view", "Show one product in detail.", id="the product's ID"),
        tool(
            "compare",
            "Show up to four products side by side.",
            ids="their IDs, separated by commas",
        ),
        tool(
            "recommend",
            "The final answer to the customer.",
            products="ID option=value, option=value; ID option=value",
            reasons="what the customer wants to know",
        ),
    ]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        shop = functools.partial(shop_for, self.settings)
        self.symmetries = tuple(NewCodes(shop, number) for number in range(RENAMINGS))

    def prepare(
        self, tasks: Sequence[Task], *, workers: int | None = None, progress: bool = True
    ) -> None:
        """Make the catalogue and the index, if they are not there."""
        shop_for(self.settings, progress).index(progress)

    @property
    def codes(self) -> Sequence[str]:
        """List the ids of all products."""
        return tuple(shop_for(self.settings).products)

    def _begin(self, task: Task) -> Outcome:
        settings = self.settings.of_task(task)
        self._shop = shop_for(settings)
        # The range a seed lies in says from which products its request is made.
        self._wish: ShoppingRequest = request(
            self._shop, split_of(task.seed), task.seed, settings.items
        )
        self._reached: list[str] = []
        self._listed: tuple[str, ...] = ()
        self._asked: list[str] = []
        # Insertion order, so that nothing depends on the hashes of strings.
        self._shown: dict[str, Product] = {}
        self._seen: dict[str, Product] = {}
        return self._says(f"Customer: {self._wish.text}")

    def _act(self, action: str) -> Outcome:
        match = _ACTION.fullmatch(action)
        if match is None or not match[2].strip():
            return self._says(
                "Use search[...], view[...], compare[...] or recommend[...].", valid=False
            )
        tools = {
            "search": self._search,
            "view": self._look,
            "compare": self._compare,
            "recommend": self._recommend,
        }
        return tools[match[1]](match[2].strip())

    # -- the tools ---------------------------------------------------------------------------------

    def _search(self, words: str) -> Outcome:
        self._asked.append(words)
        self._listed = self._shop.search(words)[:LISTED]
        hits = [self._shop.products[asin] for asin in self._listed]
        self._shown.update((product.asin, product) for product in hits)
        self._reach(f"found:{item.kind}" for item in self._wish.items if _choice(item, hits))
        if not hits:
            return self._says("Nothing found.")
        return self._says("\n".join(f"{p.asin} | {p.title} | {p.price_tag}" for p in hits))

    def _look(self, id: str) -> Outcome:
        return self._details([id])

    def _compare(self, ids: str) -> Outcome:
        names = [id.strip() for id in ids.split(",")]
        if not 2 <= len(names) <= COMPARED:
            return self._says(f"Compare two to {COMPARED} products: compare[ID, ID].", valid=False)
        return self._details(names)

    def _details(self, ids: Sequence[str]) -> Outcome:
        products = [self._shop.products.get(id.upper()) for id in ids]
        found = [product for product in products if product is not None]
        if len(found) < len(products):
            return self._says(f"There is no product {ids[products.index(None)]}.", valid=False)
        for shown in (self._shown, self._seen):
            shown.update((product.asin, product) for product in found)
        return self._says("\n".join(_row(name, found) for name in _fields(found)))

    def _recommend(self, text: str) -> Outcome:
        head, _, reasons = text.partition("|")
        picks = [_pick(part) for part in head.split(";")]
        given = [pick for pick in picks if pick is not None]
        if len(given) < len(picks):
            return self._says(f"Write {_RECOMMEND}.", valid=False)
        known = [Pick(self._shown[id], options) for id, options in given if id in self._shown]
        valid = len(known) == len({id for id, _ in given}) == len(given) and all(
            value in pick.product.options.get(axis, ())
            for pick in known
            for axis, value in pick.options.items()
        )
        held = facts(self._wish, known, reasons) if valid else []
        self._reach(["valid", *held] if valid else [])
        reward = sum(f"constraint:{name}" in held for name in CONSTRAINTS) / len(CONSTRAINTS)
        answer = "Thank you, I will take that." if reward == 1 else "That is not what I asked for."
        return Outcome(
            f"Customer: {answer}",
            reward=reward,
            ended=True,
            success=reward == 1,
            score=reward,
            progress=reward,
            milestones=list(self._reached),
            admissible=[],
        )

    # -- what is reported --------------------------------------------------------------------------

    def _reach(self, names: Iterable[str]) -> None:
        self._reached += [name for name in names if name not in self._reached]

    def _says(self, text: str, valid: bool = True) -> Outcome:
        return Outcome(
            text,
            valid=valid,
            admissible=self._admissible,
            score=0.0,
            progress=self._progress,
            milestones=list(self._reached),
        )

    def _admissible(self) -> list[str]:
        """List searches for what the customer named, and what can be done with their hits.

        There is much more that could be done.
        """
        searches = [f"search[{item.kind}]" for item in self._wish.items]
        views = [f"view[{asin}]" for asin in self._listed]
        return [*searches, *views, *(f"recommend[{asin}]" for asin in self._seen)]

    def _progress(self) -> float:
        """Compute the average over items: 0.3 where a fitting product was listed, 0.6 if seen."""
        worth = [
            (
                _SEEN
                if _choice(item, self._seen.values())
                else _FOUND
                if _choice(item, self._shown.values())
                else 0.0
            )
            for item in self._wish.items
        ]
        return sum(worth) / len(worth)

    def expert_action(self) -> str | None:
        """Choose the expert's next action: search until all is found, look at it, recommend it.

        With `expert="search"` only what was seen is known: whatever is of the right kind and
        affordable is looked at until everything that was asked for is there, and searches follow
        each other until something new is listed.
        """
        if self.current is None or self._over:
            return None
        return self._next_look() if self.settings.expert == "search" else self._straight()

    def _next_look(self) -> str | None:
        """Choose the next action of an expert that knows what it has seen."""
        wish = self._wish
        found = [(item, _cheapest(item, self._seen.values())) for item in wish.items]
        picks = [(item, product) for item, product in found if product is not None]
        if len(picks) == len(found) and sum(product.price for _, product in picks) <= wish.budget:
            return self._recommendation(picks)
        for item, _ in sorted(found, key=lambda pair: pair[1] is not None):
            for product in self._shown.values():
                if (
                    product.query == item.kind
                    and product.price <= wish.budget
                    and product.asin not in self._seen
                ):
                    return f"view[{product.asin}]"
            for words in _searches(item):
                if words not in self._asked:
                    return f"search[{words}]"
        return None

    def _straight(self) -> str:
        """Choose the next action of the shortest way.

        That takes knowing what is on pages that were not looked at.
        """
        picks: list[tuple[RequestedItem, Product]] = []
        for item in self._wish.items:
            product = _choice(item, self._shown.values())
            if product is None:
                return f"search[{self._words(item)}]"
            picks.append((item, product))
        unseen = [product.asin for _, product in picks if product.asin not in self._seen]
        if unseen:
            return f"view[{unseen[0]}]" if len(unseen) == 1 else f"compare[{', '.join(unseen)}]"
        return self._recommendation(picks)

    def _recommendation(self, picks: Sequence[tuple[RequestedItem, Product]]) -> str:
        products = "; ".join(
            " ".join(
                [product.asin, ", ".join(f"{axis}={value}" for axis, value in item.options.items())]
            ).strip()
            for item, product in picks
        )
        told = (f"{item.kind.capitalize()}: {self._told(product)}." for item, product in picks)
        return f"recommend[{products} | {' '.join(told)}]"

    def _told(self, product: Product) -> str:
        """Write the aspects of a product that the customer asked for."""
        return ", ".join(f"{aspect} {product.specs[aspect]}" for aspect in self._wish.aspects)

    def _words(self, item: RequestedItem) -> str:
        """Choose the first of `_searches` that lists something fitting."""
        for words in _searches(item):
            if _choice(
                item, [self._shop.products[asin] for asin in self._shop.search(words)[:LISTED]]
            ):
                break
        return words


def _searches(item: RequestedItem) -> list[str]:
    """List words to look for an item with: all of them, then fewer, at last a title.

    The title is that of the product that the item was written for.
    """
    values = list(item.options.values())
    few = [[attribute, item.kind, *more] for attribute in item.attributes for more in (values, [])]
    many = [
        [*item.attributes, item.kind, *values],
        [*item.attributes, item.kind],
        [item.kind, *item.attributes[::-1]],
    ]
    return [" ".join(words) for words in (*many, *few, [item.kind, *values])] + [item.target.title]


def _choice(item: RequestedItem, products: Collection[Product]) -> Product | None:
    """Find the cheapest product that fits within the item's share, so that the budget holds."""
    return _cheapest(item, [p for p in products if p.price <= item.share])


def _cheapest(item: RequestedItem, products: Collection[Product]) -> Product | None:
    return min((p for p in products if item.fits(p)), key=lambda p: (p.price, p.asin), default=None)


def _pick(text: str) -> tuple[str, dict[str, str]] | None:
    """Read 'ID axis=value, axis=value' as an ID in upper case and options.

    None for what is not written like that.
    """
    id, _, rest = composed(text.strip()).partition(" ")
    pairs = [pair.partition("=") for pair in rest.split(",")] if rest.strip() else []
    if (
        not id
        or "=" in id
        or not all(axis.strip() and equals and value.strip() for axis, equals, value in pairs)
    ):
        return None
    return id.upper(), {axis.strip().lower(): value.strip().lower() for axis, _, value in pairs}


def _fields(products: Sequence[Product]) -> dict[str, None]:
    """Name what a page of these products shows, with all their options and aspects, each once."""
    names = ["ID", "product", "price", "attributes"]
    return dict.fromkeys(
        [*names, *(a for p in products for a in p.options), *(a for p in products for a in p.specs)]
    )


def _row(name: str, products: Sequence[Product]) -> str:
    def cell(product: Product) -> str:
        plain = {"ID": product.asin, "product": product.title, "price": product.price_tag}
        plain["attributes"] = ", ".join(product.attributes)
        options = ", ".join(product.options.get(name, ()))
        return plain.get(name) or options or product.specs.get(name, "-")

    return f"{name}: {' | '.join(cell(product) for product in products)}"
