"""Shop: a catalogue with its search index and its splits::

    shop = shop_for(ShopSettings(products=300))
    shop.search("travel backpack")[0]                   # an asin
    shop.goals[shop.splits["test"][0]].instruction

There is one per process and set of products.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from ...foundation.cache import cache_dir, fill_once, make_once
from ...foundation.progress import bar
from ..renaming import exchanged
from ..task import Split
from .catalogue import VERSION, Catalogue, generate
from .index import TANTIVY, Index, build
from .plan import Plan
from .product import Product
from .settings import ShopSettings, WebShopSettings
from .upstream import fingerprint, load

TEST, VALID_GENERATED, VALID_UPSTREAM = 500, 200, 1000
"""Goals per split at most; of a small catalogue a sixth are for testing and a tenth for validation.
"""
_OPEN = 4
"""Shops that one process keeps in memory; one of 10,000 products takes about 60 MB."""
_PLANS = 256
"""Goals whose plans are kept: the groups of a training step."""


class Shop:
    """Products by asin in the catalogue's order, goals, and which goals belong to which split.

    Args:
        catalogue: what there is.
        valid: goals for validation at most.
        index: where the search index is, or is to be.
    """

    def __init__(self, catalogue: Catalogue, valid: int, index: Path) -> None:
        self.products = {product.asin: product for product in catalogue.products}
        self.goals = catalogue.goals
        self.splits = _splits(len(self.goals), valid)
        self._by_kind: dict[Split, Mapping[str, Sequence[Product]]] = {}
        self.plan = lru_cache(_PLANS)(self._plan)
        self._folder = index
        self._index: Index | None = None
        self._indexing = threading.Lock()

    def _plan(self, number: int) -> Plan:
        """Make the plan of a goal, which its episodes share with all that they find out."""
        return Plan(self.goals[number])

    def search(self, words: str) -> tuple[str, ...]:
        """Find the asins of up to 50 products, best first."""
        return self.index().search(words)

    def index(self, visible: bool = False) -> Index:
        """Return the search index, built on first use; `visible` shows a progress bar."""
        with self._indexing:
            if self._index is None:

                def make(path: Path) -> None:
                    with bar("indexing the shop", len(self.products), visible) as advance:
                        build(path, self.products.values(), advance)

                self._index = Index(fill_once(self._folder, make))
            return self._index

    def by_kind(self, split: Split) -> Mapping[str, Sequence[Product]]:
        """Collect the products of the families whose goals are in a split, by their query.

        Generated catalogues only.

        Generated catalogues only.
        """
        if split not in self._by_kind:
            first = {name: self.goals[numbers[0]].family for name, numbers in self.splits.items()}
            ends = {"test": (0, first["valid"]), "valid": (first["valid"], first["train"])}
            low, high = ends.get(split, (first["train"], sys.maxsize))
            found: dict[str, list[Product]] = {}
            for product in self.products.values():
                if low <= product.family < high:
                    found.setdefault(product.query, []).append(product)
            self._by_kind[split] = found
        return self._by_kind[split]


def _splits(goals: int, valid: int) -> dict[Split, range]:
    """Cut goals into splits: first test, as upstream's users have it, then validation, training."""
    test = max(1, min(TEST, goals // 6))
    end = test + max(1, min(valid, goals // 10))
    return {"train": range(end, goals), "valid": range(test, end), "test": range(test)}


class NewCodes(Mapping[str, str]):
    """Products under each other's codes, in lower case: the same shop, whose codes say nothing.

    Args:
        shop: opens the shop; not called before the first code is looked up.
        number: another one for every number.
    """

    def __init__(self, shop: Callable[[], Shop], number: int) -> None:
        self._shop, self._number = shop, number

    @cached_property
    def _codes(self) -> dict[str, str]:
        return exchanged([[asin.lower() for asin in self._shop().products]], self._number)

    def __getitem__(self, code: str) -> str:
        return self._codes[code]

    def __iter__(self) -> Iterator[str]:
        return iter(self._codes)

    def __len__(self) -> int:
        return len(self._codes)


_shops: OrderedDict[tuple[object, ...], Shop] = OrderedDict()
_opening = threading.Lock()


def shop_for(settings: ShopSettings, visible: bool = False) -> Shop:
    """Return the shop of these parameters, made or read on first use.

    `visible` shows a progress bar.

    Raises UserError for upstream files that are missing or malformed.
    """
    key = (settings.products, getattr(settings, "data", None), getattr(settings, "goals", "human"))
    with _opening:
        if key not in _shops:
            _shops[key] = _made(settings, visible)
            while len(_shops) > _OPEN:
                _shops.popitem(last=False)
        _shops.move_to_end(key)
        return _shops[key]


def _made(settings: ShopSettings, visible: bool) -> Shop:
    if isinstance(settings, WebShopSettings) and settings.data is not None:
        return _upstream(settings)
    return _generated(settings, visible)


def _generated(settings: ShopSettings, visible: bool) -> Shop:
    count = settings.products
    assert count is not None

    def make(path: Path) -> None:
        with bar("making the shop", count, visible) as advance:
            generate(count, advance).save(path)

    name = f"generated-v{VERSION}-{count}"
    catalogue = Catalogue.load(make_once(cache_dir("shopping") / f"{name}.json", make))
    return Shop(catalogue, VALID_GENERATED, cache_dir("shopping") / f"{name}-index-{TANTIVY}")


def _upstream(settings: WebShopSettings) -> Shop:
    assert settings.data is not None
    folder = Path(settings.data)
    catalogue = load(folder, goals=settings.goals, limit=settings.products)
    key = json.dumps([fingerprint(folder), settings.products])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return Shop(
        catalogue, VALID_UPSTREAM, cache_dir("shopping") / f"webshop-{digest}-index-{TANTIVY}"
    )
