"""WebShop's reward against numbers worked out by hand from its rules, in their order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("rapidfuzz", reason="needs the extra: pip install 'turnrl[shopping]'")
pytest.importorskip("tantivy", reason="needs the extra: pip install 'turnrl[shopping]'")

from hypothesis import given
from hypothesis import strategies as st
from turnrl.envs.shopping.plan import DISCOUNT, Plan
from turnrl.envs.shopping.product import NO_LIMIT, Product, ShoppingGoal, limits_above
from turnrl.envs.shopping.reward import COLOURS, alike, colour, score

SOCKS = Product(
    asin="A1",
    title="Acme Wool Socks",
    description="Keeps you WARM.",
    bullets=("No itching", "Long lasting heel"),
    attributes=("machine wash", "hand dry"),
    options={"color": ("dark blue", "red"), "size": ("large", "x-large")},
    query="socks",
    department="fashion",
    product_category="Clothing › Men › Socks",
    price=20.0,
    price_tag="$20.0",
    nouns=("acme", "wool", "socks"),
)
GOAL = ShoppingGoal(
    asin="A1",
    instruction="",
    attributes=("machine wash", "warm"),
    options=("blue", "large"),
    price_upper=20.0,
    query="socks",
    product_category="Clothing › Men › Socks",
    nouns=("acme", "wool", "socks"),
)


def total(chosen: dict[str, str], goal: ShoppingGoal = GOAL, **product: Any) -> float:
    return score(replace(SOCKS, **product), goal, chosen).total


BOTH = {"color": "dark blue", "size": "large"}
TEN = tuple("abcdefghij")


@pytest.mark.parametrize(
    ("product", "goal", "worth"),
    [
        # (2 attributes + 2 options + price) / 5 each time, so the reward is r_type.
        ({}, {}, 1.0),
        # Query alone: one shared noun of three is 0.33 in any case, one of five is 0.2 and no match
        # by itself.
        ({"product_category": "x", "nouns": ("a",)}, {"nouns": tuple("abcde")}, 1.0),
        # Two shared parts of the category, the order of which does not matter.
        (
            {"query": "x", "product_category": "Men›Clothing", "nouns": ("a",)},
            {"nouns": tuple("abcde")},
            1.0,
        ),
        # One shared part and exactly a fifth of the nouns: no match.
        (
            {"query": "x", "product_category": "Clothing › Toys", "nouns": ("a",)},
            {"nouns": tuple("abcde")},
            0.5,
        ),
        # More than a fifth of the nouns is a match by itself.
        ({"query": "x", "product_category": "x", "nouns": ("a",)}, {"nouns": tuple("abcd")}, 1.0),
        # A tenth is not below a tenth.
        ({"query": "x", "product_category": "x", "nouns": ("a",)}, {"nouns": TEN}, 0.5),
        # Below a tenth overrides a match by query and by category.
        ({"nouns": ("a",)}, {"nouns": (*TEN, "k")}, 0.1),
        ({"query": "x", "nouns": ("a",)}, {"nouns": (*TEN, "k")}, 0.1),
        # No shared noun overrides everything.
        ({"nouns": ("z",)}, {}, 0.0),
        ({"nouns": ()}, {"nouns": ("a",)}, 0.0),
        # A goal without nouns counts as a fifth: no match, but not below a tenth either.
        ({"query": "x", "product_category": "x"}, {"nouns": ()}, 0.5),
        ({"nouns": ("z",)}, {"nouns": ()}, 1.0),
        # Repeated nouns count in the denominator only: 1 of 5.
        (
            {"query": "x", "product_category": "x", "nouns": ("a", "a")},
            {"nouns": ("a", "a", "b", "c", "d")},
            0.5,
        ),
    ],
)
def test_type_in_the_order_of_its_rules(
    product: dict[str, Any], goal: dict[str, Any], worth: float
) -> None:
    assert total(BOTH, replace(GOAL, **goal), **product) == pytest.approx(worth)


@pytest.mark.parametrize(
    ("attribute", "has"),
    [
        ("machine wash", True),
        ("machine washable", True),  # 86 of 100 alike
        ("wash machine", True),  # the order of words does not matter
        ("wash", True),  # contained in 'machine wash'
        ("warm", True),  # in the description, whatever its case there
        ("long lasting", True),  # in a bullet
        ("acme", True),  # in the title
        ("no itching long", True),  # across bullets, which are joined by spaces
        ("long-lasting", False),  # texts are compared letter by letter
        ("WARM", False),  # and in lower case
        ("waterproof", False),
    ],
)
def test_an_attribute_counts_by_likeness_or_by_text(attribute: str, has: bool) -> None:
    assert score(SOCKS, replace(GOAL, attributes=(attribute,)), {}).attributes == has


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("dark blue", "blue"),
        ("navy blue", "blue"),
        ("stainless steel", "steel"),
        ("titanium", "tan"),
        ("colored", "red"),
        ("light ash", "ash"),
        ("x-large", "x-large"),
        ("", ""),
    ],
)
def test_the_first_colour_word_in_upstreams_order_wins(value: str, word: str) -> None:
    assert colour(value) == word


def test_there_are_upstreams_colours() -> None:
    assert len(COLOURS) == len(set(COLOURS)) == 102
    assert list(COLOURS) == sorted(COLOURS)


@pytest.mark.parametrize(
    ("options", "chosen", "met"),
    [
        (("blue", "large"), {"color": "dark blue", "size": "large"}, 2),
        (("light blue",), {"color": "dark blue"}, 1),  # both are blue
        (("large",), {"size": "x-large"}, 1),  # contained
        (("xx-large",), {"size": "x-large"}, 1),
        (("small",), {"size": "large"}, 0),
        (("red",), {}, 0),
        (("red", "red"), {"color": "red"}, 2),  # each wish looks at all that was chosen
        (("10 inch",), {"size": "12 inch"}, 1),  # 86 alike
        (("twin",), {"size": "king"}, 0),
        (("café",), {"size": "caf"}, 1),  # upstream drops the letters of Latin-1
        (("é",), {"size": "é"}, 0),  # so nothing is left of this one
        ((), {"color": "red"}, 0),
        ({"color": "red", "size": "large"}, {"color": "red", "size": "large"}, 2),
        (
            {"color": "dark blue"},
            {"color": "dark blue"},
            1,
        ),  # compared as the text of the pair, which holds 'blue'
        ({"color": "dark blue"}, {"color": "navy blue"}, 1),
        (
            {"color": "red"},
            {"color": "bright red"},
            1,
        ),  # a pair with a colour word alone is that word
        ({"size": "large"}, {"size": "small"}, 0),
    ],
)
def test_options_as_lists_and_as_pairs(options: Any, chosen: dict[str, str], met: int) -> None:
    assert score(SOCKS, replace(GOAL, options=options), chosen).options == met


def test_the_price_limit_is_inclusive() -> None:
    assert [total(BOTH, price=price) for price in (19.99, 20.0, 20.01)] == [1.0, 1.0, 0.8]


@pytest.mark.parametrize(
    ("chosen", "changes", "parts"),
    [
        ({}, {}, (2, 0, True)),
        ({"color": "red"}, {"price": 50.0}, (2, 0, False)),
        ({"size": "x-large"}, {"attributes": ("DUMMY_ATTR",)}, (1, 1, True)),
        (BOTH, {"description": "", "price": 99.0, "nouns": ("wool",)}, (1, 2, False)),
    ],
)
def test_the_total_is_the_share_of_what_was_asked(
    chosen: dict[str, str], changes: dict[str, Any], parts: tuple[int, int, bool]
) -> None:
    found = score(replace(SOCKS, **changes), GOAL, chosen)
    assert (found.attributes, found.options, found.price) == parts
    assert found.total == sum(parts) / 5


def test_limits_are_the_next_four_tens() -> None:
    assert limits_above(9.99) == [10, 20, 30, 40]
    assert limits_above(10.0) == [20, 30, 40, 50]
    assert limits_above(975.0) == [980, 990]
    assert limits_above(990.0) == []
    assert replace(GOAL, price_upper=NO_LIMIT).price_upper == 1_000_000


@given(st.text(max_size=20), st.text(max_size=20))
def test_likeness_takes_any_text_and_is_symmetric(one: str, other: str) -> None:
    assert alike(one, other) == alike(other, one)
    assert colour(one) == one or colour(one) in COLOURS


# -- the plan --------------------------------------------------------------------------------------


def test_the_plan_clicks_what_is_missing_and_prefers_the_exact_value() -> None:
    plan = Plan(replace(GOAL, options=("x-large", "dark blue")))
    fresh = plan.buy(SOCKS, {})
    assert (fresh.reward, set(fresh.clicks)) == (1.0, {"x-large", "dark blue"})
    assert fresh.value == pytest.approx(DISCOUNT**3)
    assert plan.buy(SOCKS, {"color": "dark blue"}).clicks == ("x-large",)
    # 'large' meets 'x-large' too, so nothing is left to do.
    assert plan.buy(SOCKS, {"color": "dark blue", "size": "large"}).clicks == ()
    assert plan.buy(SOCKS, {"color": "red", "size": "large"}).clicks == ("dark blue",)
    assert plan.pleases(SOCKS)
    assert not plan.pleases(
        replace(SOCKS, asin="A2", options={"size": ("large",), "color": ("dark blue",)})
    )


@given(
    st.dictionaries(
        st.sampled_from(["color", "size"]),
        st.sampled_from(["dark blue", "red", "large", "x-large"]),
    )
)
def test_no_single_purchase_is_better_than_the_plan(chosen: dict[str, str]) -> None:
    best = Plan(GOAL).buy(SOCKS, chosen)
    now = {axis: value for axis, value in chosen.items() if value in SOCKS.options[axis]}
    assert score(SOCKS, GOAL, now).total * DISCOUNT <= best.value + 1e-12
    assert best.reward == 1.0


def test_values_that_no_action_can_name_are_not_planned() -> None:
    odd = replace(SOCKS, asin="A3", options={"size": ("large [pack]",), "color": ("buy now",)})
    assert Plan(replace(GOAL, options=("large pack", "buy now"))).buy(odd, {}).clicks == ()
