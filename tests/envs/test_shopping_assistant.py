"""shopping/assistant-v0: tools, recommendations as found, and no reward for a wrong one."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rapidfuzz", reason="needs the extra: pip install 'turnrl[shopping]'")
pytest.importorskip("tantivy", reason="needs the extra: pip install 'turnrl[shopping]'")

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from turnrl.agents.episode import Episode, Group, Turn
from turnrl.agents.symmetry import rename
from turnrl.envs import SPLITS, Task, TextEnv, make
from turnrl.envs.check.check import check_env
from turnrl.envs.shopping.product import Product
from turnrl.envs.shopping.requests import (
    Pick,
    RequestedItem,
    ShoppingRequest,
    facts,
    request,
    tells,
)
from turnrl.envs.shopping.shop import _shops, shop_for
from turnrl.foundation.errors import UserError
from turnrl.rewards.base import REWARDS

ID = "shopping/assistant-v0"
EVERYTHING = ("admissible_actions", "progress")
SMALL = 300
PAGE = Path(__file__).parents[2] / "docs" / "environments" / "shopping.md"


@pytest.fixture(scope="module", autouse=True)
def home(cache: Path) -> Path:
    """A cache of its own, and no shop from another."""
    _shops.clear()
    return cache


def started(split: str = "test", number: int = 0, **options: Any) -> tuple[TextEnv, str]:
    env = make(ID, **{"products": SMALL, "extras": EVERYTHING, **options})
    return env, env.reset(options={"task": env.tasks(split)[number]})[0]


def to_the_end(env: TextEnv) -> list[tuple[str, str, float, dict[str, Any]]]:
    """The expert's turns: action, observation, reward, info."""
    turns = []
    while (action := env.expert_action()) is not None:
        text, reward, _, _, info = env.step(action)
        turns.append((action, text, reward, dict(info)))
    return turns


@pytest.mark.parametrize("items", [1, 3])
def test_an_expert_that_searches_wins_and_names_only_what_it_has_read(items: int) -> None:
    env = make(ID, products=SMALL, items=items, expert="search", extras=EVERYTHING)
    longer = 0
    for task in [task for split in SPLITS for task in env.tasks(split)[:20]]:
        read = env.reset(options={"task": task})[0]
        turns = []
        while (action := env.expert_action()) is not None:
            assert all(code in read for code in re.findall(r"B0\w{8}", action)), task.id
            text, *_, info = env.step(action)
            turns.append(action)
            read += text
        assert info["success"], task.id
        seen = [action for action in turns if action.startswith("view[")]
        assert len(set(seen)) == len(seen) >= items
        longer += len(seen) > items
    assert longer, "sometimes the first that is affordable is not what was asked for"


def test_the_searching_expert_is_part_of_a_task_and_the_usual_one_is_not() -> None:
    searching = make(ID, products=SMALL, expert="search").tasks("train")[0]
    assert searching.params["expert"] == "search"
    assert "expert" not in make(ID, products=SMALL).tasks("train")[0].params
    with pytest.raises(UserError, match="expert"):
        make(ID, products=SMALL, expert="best")


def test_products_under_each_others_codes_are_the_same_shop() -> None:
    env, _ = started(items=1)
    first, second = env.symmetries[:2]
    codes = {code.lower() for code in env.codes}
    assert set(first) == set(first.values()) == codes
    assert len(first) == SMALL
    assert dict(first) != dict(second)
    listed = env.step(str(env.expert_action()))[0]
    renamed = rename(listed, first)
    assert renamed != listed
    assert set(re.findall(r"\bB0\w{8}\b", renamed)) <= set(env.codes)
    assert rename(renamed, {new: old for old, new in first.items()}) == listed


def last_words(env: TextEnv) -> str:
    """The expert's recommendation, with everything before it played."""
    while not (action := str(env.expert_action())).startswith("recommend["):
        env.step(action)
    return action


# -- what holds of a recommendation ----------------------------------------------------------------


def thing(asin: str, kind: str = "tent", **fields: Any) -> Product:
    return replace(
        Product(
            asin=asin,
            title=asin,
            description="",
            bullets=(),
            attributes=("waterproof", "compact"),
            options={"color": ("red", "teal")},
            query=kind,
            department="Outdoor",
            product_category="",
            price=40.0,
            price_tag="$40.0",
            nouns=(),
            specs={"origin": "made in Canada", "delivery": "next day"},
        ),
        **fields,
    )


def wish(*kinds: str, budget: int = 100) -> ShoppingRequest:
    items = tuple(
        RequestedItem(kind, ("waterproof",), {"color": "teal"}, thing("T", kind), 50.0)
        for kind in kinds
    )
    return ShoppingRequest("", items, budget, ("origin", "delivery"))


TEAL = {"color": "teal"}
ALL = ["constraint:products", "constraint:attributes", "constraint:options", "constraint:budget"]


@pytest.mark.parametrize(
    ("kinds", "picks", "held"),
    [
        (["tent"], [(thing("A"), TEAL)], ALL),
        (["tent"], [(thing("A", price=100.0), TEAL)], ALL),
        (["tent"], [(thing("A", price=100.01), TEAL)], ALL[:3]),
        (["tent"], [(thing("A"), {"color": "red"})], [ALL[0], ALL[1], ALL[3]]),
        (["tent"], [(thing("A"), {})], [ALL[0], ALL[1], ALL[3]]),
        (["tent"], [(thing("A", attributes=("compact",)), TEAL)], [ALL[0], ALL[2], ALL[3]]),
        # Whatever else holds, it does not hold of the wrong things.
        (["tent"], [(thing("A", "hose"), TEAL)], []),
        (["tent"], [(thing("A"), TEAL), (thing("B"), TEAL)], []),
        (["tent"], [], []),
        (["tent", "hose"], [(thing("A"), TEAL)], []),
        (["tent", "hose"], [(thing("B", "hose"), TEAL), (thing("A"), TEAL)], ALL),
        (["tent", "hose"], [(thing("B", "hose", price=70.0), TEAL), (thing("A"), TEAL)], ALL[:3]),
        (
            ["tent", "hose"],
            [(thing("B", "hose"), TEAL), (thing("A"), {})],
            [ALL[0], ALL[1], ALL[3]],
        ),
    ],
)
def test_constraints(
    kinds: list[str], picks: list[tuple[Product, dict[str, str]]], held: list[str]
) -> None:
    assert facts(wish(*kinds), [Pick(product, options) for product, options in picks], "") == held


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        ("Made in Canada, and it is there the NEXT  day!", True),
        ("origin: made-in-Canada", True),
        ("made in Canada or made in Mexico", False),
        ("made in Mexico", False),
        ("homemade in Canada", False),
        ("", False),
    ],
)
def test_an_aspect_is_told_by_its_true_value_alone(reasons: str, told: bool) -> None:
    assert tells(reasons, "origin", [thing("A")]) is told


def test_an_aspect_of_a_bundle_is_told_for_all_of_it() -> None:
    pair = [thing("A"), thing("B", specs={"origin": "made in Mexico"})]
    assert not tells("Made in Canada.", "origin", pair)
    assert tells("One is made in Canada, the other made in Mexico.", "origin", pair)
    assert not tells("made in Canada, made in Mexico, made in Turkey", "origin", pair)
    assert not tells("next day", "delivery", pair)
    assert not tells("next day", "delivery", [])


# -- the world -------------------------------------------------------------------------------------


def test_it_passes_the_checker() -> None:
    report = check_env(ID, params={"products": SMALL})
    assert {result.status for result in report.results} == {"ok"}, str(report)


@pytest.mark.parametrize("items", [1, 2, 3])
def test_the_expert_recommends_what_was_asked_for_and_says_why(items: int) -> None:
    for split in SPLITS:
        for number in range(6):
            env, _ = started(split, number, items=items)
            turns = to_the_end(env)
            assert [reward for *_, reward, _ in turns] == [0.0] * (len(turns) - 1) + [1.0]
            info = turns[-1][3]
            assert info["success"]
            assert info["progress"] == 1.0
            kinds = [name.partition(":")[0] for name in info["milestones"]]
            counts = {kind: kinds.count(kind) for kind in kinds}
            assert counts == {"found": items, "valid": 1, "constraint": 4, "aspect": 2}
            progress = [turn[3]["progress"] for turn in turns]
            assert progress == sorted(progress)


def test_the_tools_answer_in_lines() -> None:
    env, text = started(items=1)
    assert re.fullmatch(r"Customer: .*\$\d+.*", text)
    listing = env.step(str(env.expert_action()))[0].splitlines()
    assert 0 < len(listing) <= 10
    ids = [line.split(" | ")[0] for line in listing]
    page = env.step(f"view[{ids[0].lower()}]")[0].splitlines()
    assert page[0] == f"ID: {ids[0]}"
    assert [line.partition(":")[0] for line in page[:4]] == ["ID", "product", "price", "attributes"]
    both = env.step(f"compare[{ids[0]}, {ids[1]}]")[0].splitlines()
    assert both[0] == f"ID: {ids[0]} | {ids[1]}"
    assert len({line.partition(":")[0] for line in both}) == len(both)
    assert env.step("search[...]")[0] == "Nothing found."


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("look around", "Use search[...], view[...], compare[...] or recommend[...]."),
        ("search[ ]", "Use search[...]"),
        ("Search[tent]", "Use search[...]"),
        ("view[B0NOTHERE00]", "There is no product B0NOTHERE00."),
        ("compare[B0NOTHERE00]", "Compare two to 4 products"),
        ("compare[a, b, c, d, e]", "Compare two to 4 products"),
        ("compare[a, b]", "There is no product a."),
        ("recommend[| good]", "Write recommend[ID option=value"),
        ("recommend[B0 teal | good]", "Write recommend["),
        ("recommend[color=teal | good]", "Write recommend["),
        ("recommend[B0 color= | good]", "Write recommend["),
        ("recommend[B0;; B1 | good]", "Write recommend["),
    ],
)
def test_a_misused_tool_says_how_it_is_used(action: str, words: str) -> None:
    env, _ = started()
    text, reward, terminated, _, info = env.step(action)
    assert words in text
    assert "\n" not in text
    assert (reward, terminated, info["valid_action"], info["milestones"]) == (0.0, False, False, [])


def test_only_what_was_shown_in_this_episode_may_be_recommended() -> None:
    env, _ = started(items=1)
    right = last_words(env)
    env.reset(options={"task": env.current})
    text, reward, terminated, _, info = env.step(right)
    assert (text, reward, terminated) == ("Customer: That is not what I asked for.", 0.0, True)
    assert (info["success"], info["milestones"], info["admissible_actions"]) == (False, [], [])


@pytest.mark.parametrize(
    ("change", "valid"),
    [
        (lambda words: words, True),
        (lambda words: words.replace("[", "[ ", 1).lower(), True),
        (lambda words: words.replace("|", ", engraving=mine |", 1), False),
        (lambda words: re.sub(r"\[(\S+)(.*?) \|", r"[\1\2; \1 |", words), False),
        (lambda words: words.replace("[B0", "[B9", 1), False),
    ],
)
def test_a_recommendation_stands_or_not(change: Any, valid: bool) -> None:
    for number in range(5):
        env, _ = started(number=number, items=1)
        words = change(last_words(env))
        if "=" not in words.partition("|")[0].partition(",")[0]:
            words = words.replace(", engraving", " engraving")
        _, _, terminated, _, info = env.step(words)
        assert terminated
        assert ("valid" in info["milestones"]) is valid


def test_requests_are_made_of_their_own_split_and_no_two_are_alike() -> None:
    env, _ = started()
    shop = shop_for(env.settings)  # type: ignore[arg-type]
    texts: dict[str, set[str]] = {}
    for split in SPLITS:
        wishes = [request(shop, split, task.seed, 2) for task in env.tasks(split)[:100]]
        own = {product.asin for products in shop.by_kind(split).values() for product in products}
        assert all(item.target.asin in own for w in wishes for item in w.items)
        assert all(len({item.kind for item in w.items}) == 2 for w in wishes)
        assert all(sum(item.target.price for item in w.items) < w.budget for w in wishes)
        texts[split] = {w.text for w in wishes}
        assert len(texts[split]) == 100
    assert len(set.union(*texts.values())) == 300


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"items": 4}, "items: Input should be less than or equal to 3"),
        ({"products": 99}, "products: Input should be greater than or equal to 100"),
    ],
)
def test_bad_parameters_are_told_in_one_sentence(params: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        make(ID, **params)


def test_a_strange_task_is_refused() -> None:
    with pytest.raises(UserError, match="is not a shopping/assistant-v0 task"):
        make(ID, products=SMALL).reset(options={"task": Task(env="shopping/webshop-v0", seed=0)})


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(
    tool=st.sampled_from(["search", "view", "compare", "recommend", "buy", ""]),
    words=st.text(max_size=30)
    | st.lists(st.sampled_from(["B0", ",", "|", ";", "=", "color", "[", "]", "teal", " "])).map(
        "".join
    ),
)
def test_any_call_gets_an_answer(tool: str, words: str) -> None:
    env, _ = started(items=1)
    text, reward, terminated, _, info = env.step(f"{tool}[{words}]")
    assert text
    assert reward == 0
    assert not terminated or tool == "recommend"
    assert not info["success"]


# -- rewards ---------------------------------------------------------------------------------------


def recipe() -> list[dict[str, Any]]:
    """The levels that the documentation shows."""
    block = re.search(r"```yaml\n(rewards:.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert block is not None
    return list(yaml.safe_load(block[1])["rewards"])


def played(env: TextEnv, *actions: str) -> Episode:
    assert env.current is not None
    episode = Episode(env.current)
    env.reset(options={"task": env.current})
    for action in actions:
        text, reward, over, _, info = env.step(action)
        episode.turns.append(
            Turn(
                [1],
                False,
                [2],
                [0.0],
                action=action,
                observation=text,
                env_reward=reward,
                valid_action=info["valid_action"],
                milestones=info["milestones"],
            )
        )
        episode.success = info["success"]
        if over:
            break
    return episode


def paid(*episodes: Episode) -> list[float]:
    (config,) = recipe()
    rows = asyncio.run(REWARDS.build(config)(Group(episodes[0].task, list(episodes)), None))
    return [sum(row) for row in rows]


def test_a_wrong_product_is_never_paid_more_than_a_right_one() -> None:
    for number in range(4):
        env, _ = started(number=number, items=1)
        turns = to_the_end(env)
        path, final = [turn[0] for turn in turns[:-1]], turns[-1][0]
        env.reset(options={"task": env.current})
        head, _, reasons = final.removeprefix("recommend[").removesuffix("]").partition("|")
        slow = [*path, *["search[anything at all]"] * 25]
        right = [
            (path, final),
            (slow, final),
            (path, f"recommend[{head}| .]"),
            (slow, f"recommend[{head}| .]"),
        ]
        wrong = [
            (path, f"recommend[{head.split()[0]} no=thing |{reasons}]"),
            (path, "recommend[B0NOTHERE00 | good]"),
            (path, "search[x]"),
            ([], final),
        ]
        shown = played(env, *path).turns[0].observation.splitlines()
        fits = {line.split(" | ")[0] for line in shown}
        others = [asin for asin in sorted(fits) if asin != head.split()[0]]
        episodes = [played(env, *before, last) for before, last in [*right, *wrong]]
        episodes += [played(env, *path, f"recommend[{asin} | {reasons}]") for asin in others]
        rewards = paid(*episodes)
        good = [r for r, episode in zip(rewards, episodes, strict=True) if episode.success]
        bad = [r for r, episode in zip(rewards, episodes, strict=True) if not episode.success]
        assert len(good) >= 4
        assert len(bad) >= 4
        assert max(bad) < min(good)
        # Among right ones, reasons count first and then brevity.
        assert rewards[0] > rewards[1] > rewards[2] >= rewards[3]
