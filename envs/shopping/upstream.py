"""WebShop's own product and instruction files, read by upstream's rules from a folder::

    load(Path("webshop/data"), goals="human")

=====================================  ===========================================================
items_shuffle.json (or ..._1000.json)  products
items_ins_v2.json (or ..._1000.json)   asin -> attributes, and the synthetic instructions
items_human_ins.json                   asin -> human instructions (only for ``goals="human"``)
nouns.json                             optional: asin -> nouns of the title, with repeats
=====================================  ===========================================================

Kept from princeton-nlp/WebShop (MIT): which products are dropped, how options, prices and
attributes are read, how goals are worded, that they are shuffled with seed 233. Changed: a price
out of a range and a price limit come from the asin, while upstream draws them from whatever state
the global generator has; a record that cannot be read is left out and counted, while few are; texts
are in Unicode's composed form. Without nouns.json all words but common ones are nouns: rewards then
differ from upstream's.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    TypeAdapter,
    ValidationError,
)

from ...foundation.config import explain
from ...foundation.errors import UserError
from ..rows import BadRows
from ..sanitise import composed
from .catalogue import Catalogue
from .phrases import price_text
from .product import NO_LIMIT, GoalOptions, Product, ShoppingGoal, limits_above

PRODUCTS = ("items_shuffle.json", "items_shuffle_1000.json")
ATTRIBUTES = ("items_ins_v2.json", "items_ins_v2_1000.json")
HUMAN = ("items_human_ins.json",)
NOUNS = ("nouns.json",)
_SHUFFLE_SEED = 233
_ASIN_CHARS = 10
_PRICE = 100.0
_WORD = re.compile(r"[a-z][a-z'&-]+")
_UNTYPED = re.compile(r"[\\\x00-\x1f\x7f]")
_COMMON = frozenset(
    "a an and as at be by for from has in is it its more new of on or our set that the this to up"
    " with you your".split()
)


def _sound(text: str) -> str:
    # Half a surrogate pair can be written in JSON, but not to an index.
    return text if text.isascii() else composed(text.encode("utf-8", "replace").decode("utf-8"))


def _nothing(value: Any) -> Any:
    # Upstream asks `if options`: the file has null, "" and [] for a product without any.
    return value or None


Text = Annotated[str, AfterValidator(_sound)]


class _Value(BaseModel):
    value: Text


class _Product(BaseModel):
    """A record of the product file; other keys are ignored."""

    model_config = ConfigDict(extra="ignore")
    asin: Text
    name: Text
    category: Text
    query: Text
    product_category: Text
    full_description: Text | None
    small_description: list[Text] | Text | None
    pricing: Text | None = None
    customization_options: Annotated[
        dict[Text, Annotated[list[_Value] | None, BeforeValidator(_nothing)]] | None,
        BeforeValidator(_nothing),
    ] = None


class _Attributes(BaseModel):
    """A record of the attribute file."""

    model_config = ConfigDict(extra="ignore")
    attributes: list[Text] | None = None
    instruction: Text | None = None
    instruction_attributes: list[Text] | None = None


class _Instruction(BaseModel):
    """A human instruction."""

    model_config = ConfigDict(extra="ignore")
    instruction: Text
    instruction_attributes: list[Text]
    instruction_options: list[Text] | dict[Text, Text]


T = TypeVar("T")
J = TypeVar("J")
_PRODUCT = TypeAdapter(_Product)
_ABOUT = TypeAdapter(_Attributes)
_INSTRUCTIONS = TypeAdapter(list[_Instruction])
_WORDS = TypeAdapter(list[Text])


def load(
    folder: Path, *, goals: Literal["human", "synthetic"], limit: int | None = None
) -> Catalogue:
    """Read the products and goals of a folder.

    `limit` keeps the first so many records of the product file.

    Raises UserError for a file that is missing or malformed, and if no goal is left.
    """
    attributes = _by_asin(folder, ATTRIBUTES, _ABOUT)
    nouns = _by_asin(folder, NOUNS, _WORDS) if (folder / NOUNS[0]).is_file() else {}
    products = _products(folder, attributes, nouns, limit)
    if goals == "human":
        wanted = list(_human(products, _by_asin(folder, HUMAN, _INSTRUCTIONS)))
    else:
        wanted = list(_synthetic(products, attributes))
    if len(wanted) < 3:
        raise UserError(
            f"{folder} has {len(wanted)} {goals} goals for its products; training needs at least"
            " three"
        )
    random.Random(_SHUFFLE_SEED).shuffle(wanted)
    return Catalogue(list(products.values()), wanted)


def fingerprint(folder: Path) -> list[list[Any]]:
    """Tell one state of the product file from another: path, size and time of the last change."""
    path = _find(folder, PRODUCTS)
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns]]


def _find(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"shopping/webshop: there is no {' or '.join(names)} in {folder}")


def _json(path: Path, kind: type[J], name: str) -> J:
    """Read the content of a file. Raises UserError if it is not JSON, or not of this kind."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, kind):
        raise UserError(f"{path}: Input should be a valid {name}")
    return content


def _by_asin(folder: Path, names: Iterable[str], shape: TypeAdapter[T]) -> dict[str, T]:
    """Read the records of a file by their asin."""
    path, bad, found = _find(folder, names), BadRows("shopping/webshop"), dict[str, T]()
    rows = _json(path, dict, "dictionary")
    for asin, row in rows.items():
        try:
            found[asin] = shape.validate_python(row)
        except ValidationError as error:
            bad.add(explain(error, f"{path}: {asin}"))
    bad.settle(len(rows))
    return found


def _products(
    folder: Path,
    attributes: Mapping[str, _Attributes],
    nouns: Mapping[str, list[str]],
    limit: int | None,
) -> dict[str, Product]:
    """Read the first `limit` products by their asin; upstream's rules say what is dropped."""
    path, bad, found = _find(folder, PRODUCTS), BadRows("shopping/webshop"), dict[str, Product]()
    rows = _json(path, list, "list")[:limit]
    for number, row in enumerate(rows):
        try:
            record = _PRODUCT.validate_python(row)
            if (
                record.asin != "nan"
                and len(record.asin) <= _ASIN_CHARS
                and record.asin not in found
            ):
                found[record.asin] = _product(
                    record, attributes.get(record.asin), nouns.get(record.asin)
                )
        except ValidationError as error:
            bad.add(explain(error, f"{path}: record {number}"))
        except ValueError as error:
            bad.add(f"{path}: record {number}: {error}")
    bad.settle(len(rows))
    return found


def _product(record: _Product, about: _Attributes | None, nouns: list[str] | None) -> Product:
    """Make a product of a record, as upstream does. Raises ValueError for a price that is none."""
    bullets = record.small_description
    price, tag = _price(record)
    attributes = about.attributes if about is not None else None
    return Product(
        asin=record.asin,
        title=record.name,
        description=record.full_description or "",
        bullets=tuple(bullets) if isinstance(bullets, list) else (bullets or "",),
        attributes=("DUMMY_ATTR",) if attributes is None else tuple(attributes),
        options={
            axis.lower(): tuple(_option(v.value) for v in values)
            for axis, values in (record.customization_options or {}).items()
            if values is not None
        },
        query=record.query.lower().strip(),
        department=record.category,
        product_category=record.product_category,
        price=price,
        price_tag=tag,
        nouns=tuple(nouns) if nouns is not None else _nouns(record.name),
    )


def _option(value: str) -> str:
    # Upstream keeps what no action may hold here: line breaks, backslashes, control characters.
    return " ".join(_UNTYPED.sub(" ", value).replace("/", " | ").lower().split())


def _price(record: _Product) -> tuple[float, str]:
    """Read the price and how it is shown. A range is priced by its asin, somewhere in it."""
    try:
        amounts = [
            float(re.sub(r"[^\d.]", "", part)) for part in (record.pricing or "").split("$")[1:3]
        ]
    except ValueError:
        raise ValueError(f"product {record.asin}: '{record.pricing}' is no price") from None
    if not amounts:
        return _PRICE, f"${_PRICE}"
    if len(amounts) == 1:
        return amounts[0], f"${amounts[0]}"
    return (
        random.Random(f"price {record.asin}").uniform(*amounts),
        f"${amounts[0]} to ${amounts[1]}",
    )


def _nouns(title: str) -> tuple[str, ...]:
    return tuple(word for word in _WORD.findall(title.lower()) if word not in _COMMON)


def _human(
    products: Mapping[str, Product], instructions: dict[str, list[_Instruction]]
) -> Iterator[ShoppingGoal]:
    for product in products.values():
        for number, wish in enumerate(instructions.get(product.asin, [])):
            if wish.instruction_attributes:
                options = wish.instruction_options
                yield _goal(
                    product,
                    f"{number}",
                    wish.instruction.strip("."),
                    wish.instruction_attributes,
                    dict(options) if isinstance(options, dict) else tuple(options),
                )


def _synthetic(
    products: Mapping[str, Product], about: Mapping[str, _Attributes]
) -> Iterator[ShoppingGoal]:
    for product in products.values():
        wish = about.get(product.asin)
        if wish is None or wish.instruction is None or not wish.instruction_attributes:
            continue
        axes = sorted(product.options)
        for values in itertools.product(*(product.options[axis] for axis in axes)):
            options = dict(zip(axes, values, strict=True))
            text = ", and ".join(f"{axis}: {value}" for axis, value in options.items())
            # One limit per product: upstream draws it before it combines the options.
            instruction = wish.instruction + (f" with {text}" if text else "")
            yield _goal(product, "synthetic", instruction, wish.instruction_attributes, options)


def _goal(
    product: Product, draw: str, text: str, attributes: list[str], options: GoalOptions
) -> ShoppingGoal:
    above = limits_above(product.price)
    limit = (
        max(random.Random(f"limit {product.asin} {draw}").sample(above, 2))
        if len(above) >= 2
        else NO_LIMIT
    )
    return ShoppingGoal(
        asin=product.asin,
        instruction=text + price_text(limit),
        attributes=tuple(attributes),
        options=options,
        price_upper=limit,
        query=product.query,
        product_category=product.product_category,
        nouns=product.nouns,
    )
