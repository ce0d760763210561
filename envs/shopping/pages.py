"""WebShop's actions, and its pages in text mode: the visible strings of a page, joined by ' [SEP]
'.

Facts about the pages from princeton-nlp/WebShop (MIT), `web_agent_site/templates`; there the
strings are what BeautifulSoup finds in the rendered page. What a customer is after stands on every
page but the last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from ..sanitise import Grammar, clean, composed
from .product import Product

GRAMMAR = Grammar(chaining=True, deny=frozenset(), max_chars=512)
"""Searches and options may hold points and semicolons; nothing here is a meta verb."""
PER_PAGE = 10
BACK, NEXT, PREVIOUS, BUY = "Back to Search", "Next >", "< Prev", "Buy Now"
SUB_PAGES = ("Description", "Features", "Reviews", "Attributes")
_ACTION = re.compile(r"(.+)\[(.+)\]")
_HTML_SAFE = {"&": "\\u0026", "<": "\\u003c", ">": "\\u003e", "'": "\\u0027"}


def parse(action: str) -> tuple[str, str]:
    """Split an action into its name and its argument in lower case; ('', '') for what is none.

    As lenient as upstream.
    """
    match = _ACTION.match(action)
    return (match[1], composed(match[2]).lower()) if match else ("", "")


def can_click(value: str) -> bool:
    """Tell whether an action can name a value.

    None can where it has brackets, here and upstream, or is very long.
    """
    allowed, _ = clean(f"click[{value}]", GRAMMAR)
    return allowed is not None and parse(allowed) == ("click", value)


def search_page(instruction: str) -> str:
    """Write the page on which an episode begins."""
    return _joined(["WebShop", "Instruction:", instruction, "Search"])


def results_page(instruction: str, products: Sequence[Product], page: int, total: int) -> str:
    """Write a page of ten hits; there is a next page even where it is empty."""
    rows = (
        text for product in products for text in (product.asin, product.title, product.price_tag)
    )
    turning = [PREVIOUS, NEXT] if page > 1 else [NEXT]
    return _joined([*_top(instruction), f"Page {page} (Total results: {total})", *turning, *rows])


def item_page(instruction: str, product: Product, attributes: bool) -> str:
    """Write the page of a product and its options; which of them are chosen is not shown."""
    options = (text for axis, values in product.options.items() for text in (axis, *values))
    links = SUB_PAGES if attributes else SUB_PAGES[:3]
    facts = [product.title, f"Price: {product.price_tag}", "Rating: N.A."]
    return _joined([*_top(instruction), PREVIOUS, *options, *facts, *links, BUY])


def sub_page(instruction: str, product: Product, name: str) -> str:
    """Write one of `SUB_PAGES` of a product. Upstream has no reviews either."""
    texts: dict[str, Iterable[str]] = {
        "Description": [product.description],
        "Features": (f" {bullet}" for bullet in product.bullets),
        "Reviews": ["No reviews found"],
        "Attributes": (
            *(f" {a}" for a in product.attributes),
            product.department,
            product.query,
            product.product_category,
        ),
    }
    return _joined([*_top(instruction), PREVIOUS, *texts[name]])


def done_page(asin: str, options: Mapping[str, str], reward: float) -> str:
    """Write the page after buying: upstream's words for its crowd workers, with the score."""
    chosen = json.dumps(dict(options), sort_keys=True)
    for character, code in _HTML_SAFE.items():
        chosen = chosen.replace(character, code)
    return _joined(
        [
            "Thank you for shopping with us!",
            "Your code:",
            "None",
            "(Paste it in your MTurk interface.)",
            "Purchased",
            "asin",
            asin,
            "options",
            chosen,
            "attrs",
            "None",
            "category",
            "None",
            "query",
            "None",
            "product category",
            "None",
            "Target",
            "asin",
            "options",
            "attrs",
            "price upper",
            "instuction text",
            "category",
            "product category",
            "query",
            "Goal",
            "None",
            "Reward",
            "Your score (min 0.0, max 1.0)",
            str(reward),
            "Reward Details",
            "None",
        ]
    )


def _top(instruction: str) -> list[str]:
    return ["Instruction:", instruction, BACK]


def _joined(texts: Iterable[str]) -> str:
    """Join texts as upstream's parser does: no empty strings and no line breaks alone."""
    return " [SEP] ".join(
        text.strip() for text in texts if text and not ("\n" in text and text.isspace())
    )
