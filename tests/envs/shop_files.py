"""A tiny shop in WebShop's file format, written by hand, and the cache of the shopping tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def product(asin: str, name: str, **fields: Any) -> dict[str, Any]:
    """A record of the product file."""
    return {
        "asin": asin,
        "name": name,
        "category": "fashion",
        "query": "Socks ",
        "product_category": "Clothing › Men › Socks",
        "full_description": "Soft.",
        "small_description": ["Warm wool", "Made to last"],
        "pricing": "$9.50",
        "customization_options": {},
        "images": ["x"],
        "list_price": "$99",
    } | fields


PRODUCTS = [
    product(
        "A1",
        "Acme wool socks",
        customization_options={
            "Color": [{"value": " Dark Blue", "image": None}, {"value": "red/white"}],
            "Size": [{"value": "Large"}],
            "Style": None,
        },
    ),
    product(
        "A2",
        "Bolt cotton socks",
        pricing="$10.00$19.99",
        full_description="",
        small_description="One bullet",
    ),
    product(
        "A3",
        "Copper kettle",
        query="kettle",
        product_category="Home › Kitchen › Kettles",
        pricing=None,
        full_description=None,
        small_description=None,
    ),
    product("A1", "Acme again"),
    product("nan", "Nothing"),
    product("TOOLONG1234", "Look-alike socks"),
]
ATTRIBUTES = {
    "A1": {
        "attributes": ["machine wash", "long lasting"],
        "instruction": "Find me socks",
        "instruction_attributes": ["machine wash"],
    },
    "A2": {"attributes": ["hand wash"]},
    "A3": {"instruction": "Find me a kettle", "instruction_attributes": ["copper"]},
}
HUMAN = {
    "A1": [
        {
            "instruction": "i want warm socks in dark blue.",
            "instruction_attributes": ["machine wash"],
            "instruction_options": ["dark blue"],
        },
        {"instruction": "socks", "instruction_attributes": [], "instruction_options": []},
        {
            "instruction": "large socks",
            "instruction_attributes": ["long lasting"],
            "instruction_options": ["large"],
        },
    ],
    "A3": [
        {"instruction": "a kettle", "instruction_attributes": ["copper"], "instruction_options": []}
    ],
    "B9": [{"instruction": "gone", "instruction_attributes": ["x"], "instruction_options": []}],
}
NOUNS = {
    "A1": ["acme", "wool", "socks"],
    "A2": ["bolt", "cotton", "socks"],
    "A3": ["copper", "kettle"],
}


def write(folder: Path, **files: Any) -> Path:
    """Write the shop; a file given by the start of its name replaces the one here."""
    contents = {
        "items_shuffle": PRODUCTS,
        "items_ins_v2": ATTRIBUTES,
        "items_human_ins": HUMAN,
        "nouns": NOUNS,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**contents, **files}.items():
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / f"{name}.json").write_text(text, "utf-8")
    return folder
