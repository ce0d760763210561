"""Full-text search over products: BM25 with stemming, by tantivy, titles counting double.

Upstream searches with Lucene; the ranking here is close to it and not the same. An index is a
folder that any number of processes may open at once; it is mapped, not read::

    build(folder, products)
    Index(folder).search("red running shoes")  # up to 50 asins, best first
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import tantivy

from ..sanitise import composed
from .product import Product

TANTIVY = version("tantivy")
"""Part of an index's name: another version may not read it."""
HITS = 50
_HEAP_BYTES = 128 * 2**20
_PUNCTUATION = re.compile(r"[^\w\s]")


def build(
    folder: Path, products: Iterable[Product], advance: Callable[[int], None] = lambda made: None
) -> None:
    """Write the index of `products` into an empty folder."""
    schema = tantivy.SchemaBuilder()
    schema.add_text_field("asin", stored=True, tokenizer_name="raw")
    schema.add_text_field("title", tokenizer_name="en_stem")
    schema.add_text_field("body", tokenizer_name="en_stem")
    # One thread: equal scores are told apart by the order of documents, which must not depend on
    # timing.
    writer = tantivy.Index(schema.build(), path=str(folder)).writer(_HEAP_BYTES, num_threads=1)
    for product in products:
        writer.add_document(
            tantivy.Document(asin=product.asin, title=product.title, body=product.text)
        )
        advance(1)
    writer.commit()
    writer.wait_merging_threads()


class Index:
    """An index that was built. For any number of threads."""

    def __init__(self, folder: Path) -> None:
        self._index = tantivy.Index.open(str(folder))
        self._searcher = self._index.searcher()
        self.search = lru_cache(4096)(self._search)

    def _search(self, words: str) -> tuple[str, ...]:
        """Find the asins of the best hits; none for words without a letter or digit."""
        plain = _PUNCTUATION.sub(" ", composed(words)).lower()
        if not plain.strip():
            return ()
        query, _ = self._index.parse_query_lenient(
            plain, ["title", "body"], field_boosts={"title": 2.0}
        )
        found = self._searcher.search(query, HITS).hits
        return tuple(self._searcher.doc(address)["asin"][0] for _, address in found)
