"""shopping/webshop-v0: WebShop's pages word by word, its actions, and the generated shop."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rapidfuzz", reason="needs the extra: pip install 'turnrl[shopping]'")
pytest.importorskip("tantivy", reason="needs the extra: pip install 'turnrl[shopping]'")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from turnrl.envs import SPLITS, Task, TextEnv, make
from turnrl.envs.check.check import check_env
from turnrl.envs.shopping import shop
from turnrl.envs.shopping.pages import can_click, parse
from turnrl.foundation.errors import UserError

shop_files = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("shop_files.py"))))
ID = "shopping/webshop-v0"
EVERYTHING = ("admissible_actions", "progress")
SMALL = 300


@pytest.fixture(scope="module", autouse=True)
def home(cache: Path) -> Path:
    """A cache of its own, and no shop from another."""
    shop._shops.clear()
    return cache


@pytest.fixture(scope="module")
def folder(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written: Path = shop_files.write(tmp_path_factory.mktemp("shop"))
    return written


def by_hand(folder: Path, wish: str = "i want warm", **options: Any) -> TextEnv:
    """The shop written by hand, at the start of a goal."""
    env = make(ID, data=str(folder), extras=EVERYTHING, **options)
    for split in SPLITS:
        for task in env.tasks(split):
            if wish in env.reset(options={"task": task})[0]:
                return env
    raise AssertionError(wish)


def small(**options: Any) -> TextEnv:
    return make(ID, products=SMALL, extras=EVERYTHING, **options)


# -- pages -----------------------------------------------------------------------------------------


def test_every_page_word_by_word(folder: Path) -> None:
    env = by_hand(folder, attributes=True)
    wish = env.reset(options={"task": env.current})[0].removeprefix(
        "WebShop [SEP] Instruction: [SEP] "
    )
    wish = wish.removesuffix(" [SEP] Search")
    assert wish.startswith("i want warm socks in dark blue, and price lower than ")
    top = f"Instruction: [SEP] {wish} [SEP] Back to Search [SEP] "
    results = (
        f"{top}Page 1 (Total results: 1) [SEP] Next > [SEP] A1 [SEP] Acme wool socks [SEP] $9.5"
    )
    item = (
        f"{top}< Prev [SEP] color [SEP] dark blue [SEP] red | white [SEP] size [SEP] large [SEP]"
        " Acme wool socks [SEP] Price: $9.5 [SEP] Rating: N.A. [SEP] Description [SEP] Features"
        " [SEP] Reviews [SEP] Attributes [SEP] Buy Now"
    )
    steps = [
        ("search[Wool!]", results),
        ("click[A1]", item),
        ("click[description]", f"{top}< Prev [SEP] Soft."),
        ("click[< prev]", item),
        ("click[Features]", f"{top}< Prev [SEP] Warm wool [SEP] Made to last"),
        ("click[< Prev]", item),
        ("click[reviews]", f"{top}< Prev [SEP] No reviews found"),
        ("click[< prev]", item),
        (
            "click[attributes]",
            (
                f"{top}< Prev [SEP] machine wash [SEP] long lasting [SEP] fashion [SEP] socks [SEP]"
                " Clothing › Men › Socks"
            ),
        ),
        ("click[< prev]", item),
        ("click[dark blue]", item),
        ("click[< prev]", results),
        ("click[next >]", f"{top}Page 2 (Total results: 1) [SEP] < Prev [SEP] Next >"),
        ("click[< prev]", results),
        ("click[back to search]", f"WebShop [SEP] Instruction: [SEP] {wish} [SEP] Search"),
        ("search[of]", f"{top}Page 1 (Total results: 0) [SEP] Next >"),
        ("click[back to search]", f"WebShop [SEP] Instruction: [SEP] {wish} [SEP] Search"),
        ("search[socks]", None),
        ("click[a1]", item),
        ("click[dark blue]", item),
    ]
    for action, page in steps:
        text, reward, terminated, _, info = env.step(action)
        assert (reward, terminated, info["valid_action"]) == (0.0, False, True), action
        assert page is None or text == page, action
    text, reward, terminated, truncated, info = env.step("click[Buy Now]")
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    assert (
        text
        == "Thank you for shopping with us! [SEP] Your code: [SEP] None [SEP] (Paste it in your"
        ' MTurk interface.) [SEP] Purchased [SEP] asin [SEP] A1 [SEP] options [SEP] {"color":'
        ' "dark blue"} [SEP] attrs [SEP] None [SEP] category [SEP] None [SEP] query [SEP] None'
        " [SEP] product category [SEP] None [SEP] Target [SEP] asin [SEP] options [SEP] attrs"
        " [SEP] price upper [SEP] instuction text [SEP] category [SEP] product category [SEP]"
        " query [SEP] Goal [SEP] None [SEP] Reward [SEP] Your score (min 0.0, max 1.0) [SEP] 1.0"
        " [SEP] Reward Details [SEP] None"
    )


def test_empty_texts_are_not_on_the_page(folder: Path) -> None:
    env = by_hand(folder, "a kettle")
    env.step("search[kettle]")
    assert "Attributes" not in env.step("click[a3]")[0]
    assert env.step("click[description]")[0].endswith("Back to Search [SEP] < Prev")
    env.step("click[< prev]")
    # An empty bullet is a list item with a space in it.
    assert env.step("click[features]")[0].endswith("Back to Search [SEP] < Prev [SEP] ")


def test_a_results_page_forgets_the_options_and_a_product_page_does_not(folder: Path) -> None:
    def bought(*actions: str) -> float:
        env = by_hand(folder)
        for action in ("search[socks]", "click[a1]", "click[dark blue]", *actions):
            env.step(action)
        return env.step("click[buy now]")[1]

    assert bought() == 1.0
    assert bought("click[description]", "click[< prev]") == 1.0
    assert bought("click[< prev]", "click[a1]") == pytest.approx(2 / 3)
    assert bought("click[back to search]", "search[socks]", "click[a1]") == pytest.approx(2 / 3)
    assert bought("click[red | white]") == pytest.approx(2 / 3)
    assert bought("click[red | white]", "click[dark blue]") == 1.0


def test_another_purchase_is_worth_what_its_parts_are(folder: Path) -> None:
    env = by_hand(folder)
    env.step("search[kettle]")
    env.step("click[a3]")
    _, reward, terminated, _, info = env.step("click[buy now]")
    assert (reward, terminated, info["success"], info["score"], info["progress"]) == (
        0.0,
        True,
        False,
        0.0,
        0.0,
    )
    assert info["admissible_actions"] == []


# -- actions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "name", "argument"),
    [
        ("search[Red Shoes]", "search", "red shoes"),
        ("click[Buy Now] please", "click", "buy now"),
        ("click[a] click[b]", "click[a] click", "b"),
        ("Search[x]", "Search", "x"),
        ("search[]", "", ""),
        ("[x]", "", ""),
        ("search x", "", ""),
        ("search[a]]", "search", "a]"),
        ("click[8 [oz]]", "click[8 ", "oz]"),
    ],
)
def test_actions_are_read_as_leniently_as_upstream(action: str, name: str, argument: str) -> None:
    assert parse(action) == (name, argument)


@given(st.text(max_size=30))
def test_any_text_is_parsed(text: str) -> None:
    name, argument = parse(text)
    assert bool(name) == bool(argument)
    if "\n" not in text and name:
        assert text.lower().startswith(f"{name}[".lower())


@given(st.text(st.sampled_from("abc 12.;|/'\"-+ö漢"), min_size=1, max_size=30))
def test_values_without_brackets_can_be_clicked(value: str) -> None:
    assert can_click(value)


@pytest.mark.parametrize(
    "action",
    [
        "click[search]",
        "click[a1]",
        "click[buy now]",
        "Search[socks]",
        "search[]",
        "search socks",
        "socks",
        "click[]",
        "click[back to search]",
        "buy now",
    ],
)
def test_what_is_not_there_does_nothing(folder: Path, action: str) -> None:
    env = by_hand(folder)
    before = env.reset(options={"task": env.current})[0]
    text, reward, terminated, _, info = env.step(action)
    assert (text, reward, terminated) == (before, 0.0, False)
    assert (info["valid_action"], info["invalid_reason"]) == (False, "rejected")


def test_searching_elsewhere_is_upstreams_and_not_the_strict_way(folder: Path) -> None:
    strict, loose = by_hand(folder), by_hand(folder, strict=False)
    for env in (strict, loose):
        env.step("search[kettle]")
    assert strict.step("search[socks]")[4]["valid_action"] is False
    text, *_, info = loose.step("search[socks]")
    assert info["valid_action"]
    assert "Acme wool socks" in text


@pytest.mark.parametrize("word", ["<r>", "<a>", "<c>", "<q>"])
def test_words_that_upstream_runs_as_commands_are_dropped(folder: Path, word: str) -> None:
    env = by_hand(folder)
    plain = env.step("search[kettle]")[0]
    env.reset(options={"task": env.current})
    assert env.step(f"search[{word} kettle]")[0] == plain
    env.reset(options={"task": env.current})
    assert "(Total results: 0)" in env.step(f"search[{word}]")[0]


def test_odd_options_are_listed_only_if_they_can_be_clicked(tmp_path: Path) -> None:
    values = ["8 [oz]", "buy now", "x" * 600, "back\\slash", "a; b. then c", "large"]
    odd = shop_files.product(
        "A1", "Acme socks", customization_options={"Size": [{"value": v} for v in values]}
    )
    env = by_hand(
        shop_files.write(tmp_path, items_shuffle=[odd, *shop_files.PRODUCTS[1:3]]), "large socks"
    )
    env.step("search[acme]")
    listed = env.step("click[a1]")[4]["admissible_actions"]
    assert listed is not None
    assert listed[-3:] == ["click[back slash]", "click[a; b. then c]", "click[large]"]
    assert not any("oz" in action or "xxx" in action for action in listed)
    for action in listed[-3:]:
        assert env.step(action)[4]["valid_action"]
    assert env.step("click[buy now]")[2]


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.sampled_from(
            ["search", "click", "[", "]", "socks", "a1", "< prev", "large", "<q>", "\\", " "]
        )
    )
)
def test_any_action_gets_an_answer(folder: Path, words: list[str]) -> None:
    env = by_hand(folder)
    for action in ("".join(words), "search[socks]", "".join(words), "click[a1]", "".join(words)):
        text, reward, *_, info = env.step(action)
        assert text
        assert reward == 0
        assert 0 <= (info["progress"] or 0.0) < 1


# -- progress and the expert -----------------------------------------------------------------------


def test_progress_is_the_best_purchase_within_reach_less_three_percent_a_click(
    folder: Path,
) -> None:
    env = by_hand(folder)

    def after(action: str) -> Any:
        return env.step(action)[4]["progress"]

    # Opening, choosing and buying; then fewer; a wrong colour must be chosen anew.
    assert after("search[socks]") == pytest.approx(0.97**3)
    assert after("click[a1]") == pytest.approx(0.97**2)
    assert after("click[red | white]") == pytest.approx(0.97**2)
    assert after("click[dark blue]") == pytest.approx(0.97)
    assert after("click[features]") == pytest.approx(0.97**2)
    assert after("click[< prev]") == pytest.approx(0.97)
    assert after("click[back to search]") == 0.0
    assert after("search[kettle]") == 0.0
    # From the page of something else: back, open, choose, buy.
    env.reset(options={"task": env.current})
    env.step("search[socks]")
    assert after("click[a2]") == pytest.approx(0.97**4)


def test_the_expert_recovers_from_anywhere(folder: Path) -> None:
    for detour in (
        [],
        ["search[kettle]"],
        ["search[kettle]", "click[a3]"],
        ["search[socks]", "click[a2]"],
        ["search[socks]", "click[next >]", "click[next >]"],
        ["search[socks]", "click[a1]", "click[reviews]"],
        ["search[socks]", "click[a1]", "click[red | white]"],
        ["search[socks]", "click[a2]", "click[features]"],
    ):
        env = by_hand(folder)
        for step in detour:
            env.step(step)
        info: Any = {}
        for _ in range(12):
            action = env.expert_action()
            assert action is not None
            _, _, over, _, info = env.step(action)
            if over:
                break
        assert info["success"], detour
        assert env.expert_action() is None


def test_the_expert_types_what_can_be_typed(tmp_path: Path) -> None:
    title = "Zebra [2 pack] <r> so\\cks\n" + "1234 " * 200 + "soft"
    wish = {
        "instruction": "quiet",
        "instruction_attributes": ["1234 soft"],
        "instruction_options": [],
    }
    odd = shop_files.product("A1", title, query="[x]")
    env = by_hand(
        shop_files.write(
            tmp_path, items_shuffle=[odd], items_human_ins={"A1": [wish] * 3}, nouns=None
        ),
        "quiet",
    )
    rewards = []
    while (action := env.expert_action()) is not None:
        rewards.append(env.step(action)[1])
    assert rewards == [0.0, 0.0, 1.0]


def test_there_is_no_expert_for_what_cannot_be_bought(tmp_path: Path) -> None:
    wish = {
        "instruction": "striped",
        "instruction_attributes": ["stripes"],
        "instruction_options": [],
    }
    env = by_hand(shop_files.write(tmp_path, items_human_ins={"A1": [wish] * 3}), "striped")
    assert env.expert_action() is None


def test_the_expert_is_worth_one_on_every_split() -> None:
    env = small()
    for split in SPLITS:
        for task in env.tasks(split)[:15]:
            env.reset(options={"task": task})
            rewards = []
            while env.expert_action() is not None:
                rewards.append(env.step(str(env.expert_action()))[1])
            assert rewards[-1] == 1.0, task.id
            assert sum(rewards) == 1.0


def test_a_code_is_said_as_the_page_shows_it() -> None:
    env = small()
    text, _ = env.reset(options={"task": env.tasks("test")[0]})
    while "search" in (action := str(env.expert_action())):
        text = env.step(action)[0]
    code = action.removeprefix("click[").removesuffix("]")
    assert code in text
    assert code in env.codes
    assert f"{code} [SEP]" in text


# -- the contract ----------------------------------------------------------------------------------


@pytest.mark.parametrize("generated", [True, False])
def test_it_passes_the_checker(folder: Path, generated: bool) -> None:
    report = check_env(
        ID, params={"products": SMALL} if generated else {"data": str(folder), "goals": "synthetic"}
    )
    assert {result.status for result in report.results} == {"ok"}, str(report)


def test_the_search_that_is_listed_is_for_the_words_of_the_instruction(folder: Path) -> None:
    env = by_hand(folder)
    listed = env.reset(options={"task": env.current})[1]["admissible_actions"]
    assert listed == ["search[i want warm socks in dark blue]"]
    assert "Acme wool socks" in env.step(listed[0])[0]


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"products": 5}, "products=5: a generated catalogue has 100 to 50000"),
        (
            {"products": 0, "data": "/nowhere"},
            "products: Input should be greater than or equal to 1",
        ),
        ({"goals": "synthetic"}, "goals=synthetic needs data"),
        ({"goals": "mine"}, "goals: Input should be 'human' or 'synthetic'"),
        ({"strict": "maybe"}, "strict: Input should be a valid boolean"),
    ],
)
def test_bad_parameters_are_told_in_one_sentence(params: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        make(ID, **params)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_said(home: Path) -> None:
    with pytest.raises(UserError, match=r"there is no items_ins_v2.json or .* in /nowhere"):
        make(ID, data="/nowhere").tasks("train")


def test_strange_tasks_are_refused() -> None:
    env = small()
    with pytest.raises(UserError, match="is not a shopping/webshop-v0 task"):
        env.reset(options={"task": Task(env="shopping/assistant-v0", seed=0)})
    with pytest.raises(UserError, match=r"this shop has \d+ goals, counted from 0"):
        env.reset(options={"task": Task(env=ID, params={"products": SMALL}, seed=10_000)})
    with pytest.raises(UserError, match="unknown key 'size'"):
        env.reset(options={"task": Task(env=ID, params={"size": 1}, seed=0)})


def test_a_missing_extra_is_told_and_nothing_is_imported_before_it_is_needed() -> None:
    code = """
import sys
import turnrl, turnrl.envs
assert not {"tantivy", "rapidfuzz", "turnrl.envs.shopping"} & set(sys.modules)
sys.modules["rapidfuzz"] = None
try:
    turnrl.make("shopping/webshop-v0")
except turnrl.UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'turnrl[shopping]'" in done.stdout
    assert done.stdout.count("\n") == 1


def test_tools_are_the_actions() -> None:
    env = small()
    assert env.tools is not None
    assert [schema["function"]["name"] for schema in env.tools] == ["search", "click"]
    assert json.loads(json.dumps(env.tools)) == env.tools
