"""WebShop's files: upstream's rules on a tiny shop written by hand, and words on broken files."""

from __future__ import annotations

import json
import random
import runpy
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rapidfuzz", reason="needs the extra: pip install 'turnrl[shopping]'")
pytest.importorskip("tantivy", reason="needs the extra: pip install 'turnrl[shopping]'")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from turnrl.envs import make
from turnrl.envs.shopping.product import NO_LIMIT
from turnrl.envs.shopping.upstream import load
from turnrl.foundation.errors import UserError

from ..logged import logged

shop_files = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("shop_files.py"))))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    written: Path = shop_files.write(tmp_path / "shop")
    return written


def test_products_by_upstreams_rules(folder: Path) -> None:
    socks, cotton, kettle = load(folder, goals="human").products
    assert (socks.asin, socks.title, socks.query) == ("A1", "Acme wool socks", "socks")
    assert socks.options == {"color": ("dark blue", "red | white"), "size": ("large",)}
    assert socks.attributes == ("machine wash", "long lasting")
    assert (socks.price, socks.price_tag) == (9.5, "$9.5")
    assert socks.text == "soft. warm wool color: dark blue, red | white, and size: large"
    assert cotton.bullets == ("One bullet",)
    assert cotton.price_tag == "$10.0 to $19.99"
    assert 10 <= cotton.price <= 19.99
    assert (kettle.price, kettle.price_tag, kettle.description, kettle.bullets) == (
        100.0,
        "$100.0",
        "",
        ("",),
    )
    assert kettle.attributes == ("DUMMY_ATTR",)
    assert kettle.nouns == ("copper", "kettle")


def test_human_goals(folder: Path) -> None:
    catalogue = load(folder, goals="human")
    by_text = {goal.instruction.partition(", and price")[0]: goal for goal in catalogue.goals}
    assert set(by_text) == {"i want warm socks in dark blue", "large socks", "a kettle"}
    socks = by_text["i want warm socks in dark blue"]
    assert (socks.asin, socks.attributes, socks.options) == (
        "A1",
        ("machine wash",),
        ("dark blue",),
    )
    assert socks.price_upper in (20.0, 30.0, 40.0)
    assert socks.instruction.endswith(f", and price lower than {socks.price_upper:.2f} dollars")
    assert by_text["a kettle"].price_upper in (120.0, 130.0, 140.0)


def test_synthetic_goals_combine_all_options_under_one_limit(folder: Path) -> None:
    goals = load(folder, goals="synthetic").goals
    socks = [goal for goal in goals if goal.asin == "A1"]
    texts = {goal.instruction.partition(", and price")[0] for goal in socks}
    assert texts == {
        "Find me socks with color: dark blue, and size: large",
        "Find me socks with color: red | white, and size: large",
    }
    assert len({goal.price_upper for goal in socks}) == 1
    assert {"color": "red | white", "size": "large"} in [goal.options for goal in socks]
    assert [goal.options for goal in goals if goal.asin == "A3"] == [{}]


def test_goals_are_shuffled_as_upstream_does(folder: Path) -> None:
    order = [("A1", "dark blue"), ("A1", "large"), ("A3", "")]
    random.Random(233).shuffle(order)
    assert [
        (goal.asin, "".join(goal.options)) for goal in load(folder, goals="human").goals
    ] == order


def test_nothing_depends_on_the_global_generator(folder: Path) -> None:
    random.seed(1)
    one = load(folder, goals="human")
    random.seed(2)
    assert load(folder, goals="human") == one


def test_a_price_beyond_the_grid_has_no_limit(folder: Path) -> None:
    shop_files.write(
        folder, items_shuffle=[{**p, "pricing": "$985.00"} for p in shop_files.PRODUCTS]
    )
    goals = load(folder, goals="human").goals
    assert {goal.price_upper for goal in goals} == {NO_LIMIT}
    assert not any("price" in goal.instruction for goal in goals)


def test_without_a_file_of_nouns_all_but_common_words_are(folder: Path) -> None:
    (folder / "nouns.json").unlink()
    shop_files.write(
        folder,
        nouns=None,
        items_shuffle=[
            shop_files.product("A1", "The Socks for You, 2 Pack of Men's"),
            *shop_files.PRODUCTS[1:3],
        ],
    )
    assert load(folder, goals="human").products[0].nouns == ("socks", "pack", "men's")


def test_the_smaller_files_and_a_limit_will_do(folder: Path) -> None:
    for name in ("items_shuffle", "items_ins_v2"):
        (folder / f"{name}.json").rename(folder / f"{name}_1000.json")
    assert [p.asin for p in load(folder, goals="human", limit=3).products] == ["A1", "A2", "A3"]
    with pytest.raises(
        UserError, match="has 2 human goals for its products; training needs at least three"
    ):
        load(folder, goals="human", limit=1)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("items_shuffle", None, "there is no items_shuffle.json or items_shuffle_1000.json in"),
        ("items_human_ins", None, "there is no items_human_ins.json in"),
        ("items_shuffle", "[{", "items_shuffle.json is not JSON: "),
        ("items_shuffle", {"asin": 1}, "items_shuffle.json: Input should be a valid list"),
        ("items_shuffle", [{"asin": "A1"}], "items_shuffle.json: record 0: name: Field required"),
        (
            "items_shuffle",
            [shop_files.product("A1", "x", pricing="$1.2.3")],
            "product A1: '$1.2.3' is no price",
        ),
        (
            "items_shuffle",
            [shop_files.product("A1", "x", customization_options={"Color": [{"value": None}]})],
            (
                "items_shuffle.json: record 0: customization_options.Color.0.value: Input should be"
                " a valid string"
            ),
        ),
        ("items_ins_v2", [], "items_ins_v2.json: Input should be a valid dictionary"),
        (
            "items_human_ins",
            {"A1": [{"instruction": "x"}]},
            "A1: 0.instruction_attributes: Field required",
        ),
        ("nouns", {"A1": "socks"}, "nouns.json: A1: Input should be a valid list"),
        ("items_human_ins", {}, "has 0 human goals"),
    ],
)
def test_what_is_wrong_is_one_sentence(folder: Path, name: str, content: Any, words: str) -> None:
    shop_files.write(folder, **{name: content})
    if content is None:
        (folder / f"{name}.json").unlink()
    with pytest.raises(UserError) as caught:
        make("shopping/webshop-v0", data=str(folder)).tasks("train")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("nothing", [None, "", [], {}])
def test_no_options_are_written_in_several_ways(folder: Path, nothing: Any) -> None:
    plain, axis = shop_files.product("B1", "x", customization_options=nothing), {"Color": nothing}
    half = shop_files.product("B2", "x", customization_options=axis)
    shop_files.write(folder, items_shuffle=[*shop_files.PRODUCTS, plain, half])
    products = {p.asin: p for p in load(folder, goals="human").products}
    assert products["B1"].options == {}
    assert not any(products["B2"].options.values())


@pytest.mark.parametrize(
    "bad",
    [
        {"asin": "B1"},
        7,
        shop_files.product("B1", "x", pricing="$1.2.3"),
        shop_files.product("B1", "x", customization_options={"Color": [{"value": 3}]}),
    ],
)
def test_one_record_that_cannot_be_read_does_not_refuse_the_file(folder: Path, bad: Any) -> None:
    many = [shop_files.product(f"C{n}", "x") for n in range(100)]
    shop_files.write(folder, items_shuffle=[*shop_files.PRODUCTS, bad, *many])
    place = len(shop_files.PRODUCTS)
    with logged(f"1 of {101 + place} rows cannot be read .*: record {place}: "):
        products = load(folder, goals="human").products
    assert [p.asin for p in products][-100:] == [f"C{n}" for n in range(100)]
    assert "B1" not in {p.asin for p in products}


def test_a_letter_spelt_as_two_characters_is_the_same_letter(folder: Path) -> None:
    spelt = unicodedata.normalize("NFD", "Café")
    odd = shop_files.product(
        "A1", f"{spelt} socks", customization_options={"Color": [{"value": f"{spelt} brown"}]}
    )
    shop_files.write(folder, items_shuffle=[odd, *shop_files.PRODUCTS[1:3]])
    env = make("shopping/webshop-v0", data=str(folder))
    for form in ("NFC", "NFD"):
        env.reset(seed=0)
        assert "A1" in env.step(unicodedata.normalize(form, "search[café]"))[0]
        env.step("click[a1]")
        assert env.step(unicodedata.normalize(form, "click[café brown]"))[4]["valid_action"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["A1", "asin", "value"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(["items_shuffle", "items_ins_v2", "items_human_ins", "nouns"]),
    content=JSON | st.binary(),
)
def test_any_file_is_read_or_refused(folder: Path, name: str, content: Any) -> None:
    path = shop_files.write(folder) / f"{name}.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    said = ""
    try:
        load(folder, goals="human")
    except UserError as error:
        said = str(error)
    assert "\n" not in said


def test_half_a_character_is_no_obstacle(folder: Path) -> None:
    odd = shop_files.product(
        "A1", "Half \ud800 socks", customization_options={"Si\udfffze": [{"value": "\ud800\x07b"}]}
    )
    shop_files.write(folder, items_shuffle=[odd, *shop_files.PRODUCTS[1:3]])
    env = make("shopping/webshop-v0", data=str(folder))
    env.reset(seed=0)
    assert "Half ? socks" in env.step("search[half]")[0]
    assert "si?ze [SEP] ? b" in env.step("click[a1]")[0]


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.text(max_size=12), st.text(max_size=8), st.text(max_size=8)), max_size=4)
)
def test_any_words_in_a_product_are_sold(folder: Path, rows: list[tuple[str, str, str]]) -> None:
    odd = [
        shop_files.product(asin, name, customization_options={value: [{"value": value}]})
        for asin, name, value in rows
    ]
    shop_files.write(folder, items_shuffle=[*odd, *shop_files.PRODUCTS])
    products = load(folder, goals="human").products
    assert len({p.asin for p in products}) == len(products)
    for p in products:
        assert len(p.asin) <= 10
        assert all(
            value == " ".join(value.split()) for values in p.options.values() for value in values
        )
