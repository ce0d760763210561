"""The generated shop: products and look-alikes, goals and splits, equal wherever it is made."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rapidfuzz", reason="needs the extra: pip install 'turnrl[shopping]'")
pytest.importorskip("tantivy", reason="needs the extra: pip install 'turnrl[shopping]'")

from turnrl.envs import SPLITS, make
from turnrl.envs.shopping import shop
from turnrl.envs.shopping.catalogue import Catalogue, generate
from turnrl.envs.shopping.product import ShoppingGoal
from turnrl.envs.shopping.reward import alike, colour, score
from turnrl.envs.shopping.vocabulary import ASPECTS, AXES, KINDS

ID = "shopping/webshop-v0"
SMALL = 300


@pytest.fixture(scope="module", autouse=True)
def home(cache: Path) -> Path:
    """A cache of its own, and no shop from another."""
    shop._shops.clear()
    return cache


def test_a_catalogue_has_its_size_and_unique_products() -> None:
    for count in (100, 257):
        catalogue = generate(count)
        assert len(catalogue.products) == len({p.asin for p in catalogue.products}) == count
        assert all(len(p.asin) == 10 for p in catalogue.products)
        assert all(p.title.lower().startswith(p.nouns[0]) for p in catalogue.products)
        assert all(noun in p.title.lower() for p in catalogue.products for noun in p.nouns)


def wanted(catalogue: Catalogue, goal: ShoppingGoal) -> float:
    """The reward of the goal's own product with the options that the goal names."""
    target = next(p for p in catalogue.products if p.asin == goal.asin)
    chosen = {
        axis: v for axis, values in target.options.items() for v in values if v in goal.options
    }
    return score(target, goal, chosen).total


def test_goals_can_be_met_and_lookalikes_are_told_apart() -> None:
    catalogue = generate(SMALL)
    families: dict[int, list[Any]] = {}
    for p in catalogue.products:
        families.setdefault(p.family, []).append(p)
    assert sum(len(family) > 1 for family in families.values()) > len(families) / 2
    told = 0
    for goal in catalogue.goals:
        assert wanted(catalogue, goal) == 1.0
        for other in families[goal.family]:
            (target,) = [p for p in families[goal.family] if p.asin == goal.asin]
            if other is not target:
                assert other.title == target.title
                exact = set(goal.options) <= {
                    v for values in other.options.values() for v in values
                }
                told += (
                    not exact
                    or other.price > goal.price_upper
                    or not set(goal.attributes) <= set(other.attributes)
                )
    assert told > SMALL / 4


def test_the_vocabulary_is_told_apart_by_the_reward() -> None:
    contained = {("clothes", "size")}
    for key, (axis, values) in AXES.items():
        assert not any(set("[];,=|") & set(value) for value in values)
        assert values == tuple(value.lower() for value in values)
        for one, other in combinations(values, 2):
            assert (key, axis) in contained or not alike(colour(one), colour(other)), (one, other)
    for kind in KINDS:
        for one, other in combinations(kind.aisle.attributes, 2):
            assert not alike(one, other), (one, other)
            assert one not in other
    for values in ASPECTS.values():
        for one, other in combinations(values, 2):
            assert one not in other
            assert other not in one


def test_splits_share_no_goal_no_family_and_no_request() -> None:
    env = make(ID, products=SMALL)
    goals = shop.shop_for(env.settings).goals  # type: ignore[arg-type]
    found: dict[str, list[ShoppingGoal]] = {
        split: [goals[task.seed] for task in env.tasks(split)] for split in SPLITS
    }
    assert all(found.values())
    assert sum(len(part) for part in found.values()) == len(goals)
    for one, other in combinations(SPLITS, 2):
        assert not {g.family for g in found[one]} & {g.family for g in found[other]}
        assert not {g.instruction for g in found[one]} & {g.instruction for g in found[other]}


MAKE = """
import hashlib, sys
from turnrl.envs import make
env = make("shopping/webshop-v0", products=150, extras=("progress",))
env.prepare([], progress=False)
digest = hashlib.sha256()
for task in [*env.tasks("test")[:3], *env.tasks("train")[:3]]:
    digest.update(repr(env.reset(options={"task": task})).encode())
    while (action := env.expert_action()) is not None:
        digest.update(repr((action, env.step(action))).encode())
print(digest.hexdigest())
"""


def test_racing_processes_and_other_hash_seeds_make_the_same_shop(tmp_path: Path) -> None:
    def begin(name: str, seed: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / name), "PYTHONHASHSEED": seed}
        return subprocess.Popen(
            [sys.executable, "-c", MAKE], env=environment, text=True, stdout=subprocess.PIPE
        )

    running = [begin("one", "1"), begin("one", "2"), begin("two", "3")]
    digests = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(set(digests)) == 1
    one, two = (sorted((tmp_path / name).rglob("generated-*.json")) for name in ("one", "two"))
    assert len(one) == len(two) == 1
    assert one[0].read_bytes() == two[0].read_bytes()
    assert not list(tmp_path.rglob("tmp-*"))


def test_many_shops_do_not_pile_up_in_memory() -> None:
    for count in (101, 102, 103, 104, 105):
        assert make(ID, products=count).tasks("test")
    assert len(shop._shops) == 4
