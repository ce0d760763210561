"""scienceworld/task: against upstream's own class, gold paths, and words that repeat."""

from __future__ import annotations

import random
import runpy
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("scienceworld", reason="needs the extra: pip install 'turnrl[scienceworld]'")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from turnrl.envs import SPLITS, Task, make
from turnrl.envs.scienceworld.env import ScienceWorldEnv
from turnrl.envs.scienceworld.goals import reached
from turnrl.envs.scienceworld.settings import (
    HELD_OUT,
    SIMPLIFICATIONS,
    TASKS,
    ScienceSettings,
    electrical,
)
from turnrl.envs.scienceworld.splits import pairs, table
from turnrl.foundation.errors import UserError

games = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("science_games.py"))))
ID, new, task, start = games.ID, games.new, games.task, games.start
SHORT = (
    "find-plant",
    "power-component",
    "chemistry-mix",
    "lifespan-shortest-lived",
    "identify-life-stages-2",
)


@pytest.fixture(scope="module", autouse=True)
def home(cache: Path, program: Callable[[str], str]) -> Path:
    program("java")
    return cache


@pytest.fixture(scope="module")
def env() -> Iterator[ScienceWorldEnv]:
    """One Java process for the tests that only play."""
    made = new()
    yield made
    made.close()


def play_gold(env: ScienceWorldEnv) -> list[tuple[str, float, bool, Any]]:
    steps = []
    while (action := env.expert_action()) is not None:
        _, reward, terminated, _, info = env.step(action)
        steps.append((action, reward, terminated, info))
    return steps


# -- tasks and parameters --------------------------------------------------------------------------


def test_splits_are_upstreams() -> None:
    env = new()
    assert {split: len(env.tasks(split)) for split in SPLITS} == {
        "train": 3592,
        "valid": 1796,
        "test": 1819,
    }
    seen = Counter(t.id for split in SPLITS for t in env.tasks(split))
    assert set(seen.values()) == {1}
    assert [t.params["task"] for t in env.tasks("test")[:30]] == list(TASKS)
    assert env._game is None  # nothing was played to know them


def test_the_kept_variations_are_those_of_loaded_tasks(env: ScienceWorldEnv) -> None:
    for name in ("boil", "identify-life-stages-2", "inclined-plane-friction-named-surfaces"):
        start(env, name)
        assert env._game is not None
        for split, method in (
            ("train", "getVariationsTrain"),
            ("valid", "getVariationsDev"),
            ("test", "getVariationsTest"),
        ):
            found = env._game.java.call(env._game._play, method)
            assert env._game.java.call(found, "toString") == str(table()[name][split])


def test_tasks_are_known_without_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert len(new(task="boil").tasks("valid")) == 7


def test_levels_of_generalisation() -> None:
    usual = {split: set(pairs(ScienceSettings(), split)) for split in SPLITS}
    levels = {
        level: {split: set(pairs(ScienceSettings(generalisation=level), split)) for split in SPLITS}
        for level in ("L0", "L1", "L2")
    }
    seen = {pair for pair in usual["train"] if pair[0] not in HELD_OUT}
    for level in levels.values():
        assert level["train"] == seen
    assert levels["L0"]["test"] == seen
    assert levels["L1"]["test"] == {pair for pair in usual["test"] if pair[0] not in HELD_OUT}
    assert levels["L2"]["test"] == usual["test"] - levels["L1"]["test"]
    assert len(HELD_OUT) == 10
    assert {name for name, _ in levels["L2"]["valid"]} == set(HELD_OUT)


@given(
    names=st.lists(st.sampled_from(TASKS), min_size=1, unique=True),
    words=st.lists(st.sampled_from(SIMPLIFICATIONS)),
)
def test_parameters_have_one_spelling(names: list[str], words: list[str]) -> None:
    if "noElectricalAction" in words:
        names = [name for name in names if not electrical(name)] or ["boil"]
    one = ScienceSettings(task=names, simplification=",".join(words))
    assert one == ScienceSettings(task=names[::-1], simplification=" , ".join(words[::-1] + words))
    assert one == ScienceSettings(**one.params())


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"task": "boyl"}, "no task 'boyl'; did you mean 'boil'?"),
        ({"task": []}, "name at least one task"),
        ({"simplification": "hard"}, "no simplification 'hard'"),
        ({"simplification": "noElectricalAction"}, "leaves no way to do 'power-component'"),
        ({"generalisation": "L3"}, "generalisation: Input should be 'L0', 'L1' or 'L2'"),
        ({"generalisation": "L2", "task": "boil"}, "needs a held-out task"),
        ({"generalisation": "L1", "task": HELD_OUT[0]}, "needs a seen task"),
        ({"tasks": "boil"}, "unknown key 'tasks'; did you mean 'task'?"),
        ({"heap_mb": 0}, "heap_mb: Input should be greater than or equal to 1"),
    ],
)
def test_bad_parameters_are_told_in_one_sentence(params: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        make(ID, **params)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_strange_tasks_are_refused(env: ScienceWorldEnv) -> None:
    for strange, words in (
        (Task(env="search/qa-v0", seed=0), "is not a scienceworld/task-v0 task"),
        (Task(env=ID, seed=0), "must name one of the 30 tasks"),
        (task("boil", 30), "boil has 30 variations, counted from 0"),
    ):
        with pytest.raises(UserError, match=words):
            env.reset(options={"task": strange})


# -- play ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stock() -> Iterator[Any]:
    """Upstream's class, with the same hash codes."""
    from scienceworld import ScienceWorldEnv as Stock

    with pytest.MonkeyPatch.context() as patch:
        flags = (
            "-Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:+UnlockExperimentalVMOptions"
            " -XX:hashCode=2"
        )
        patch.setenv("JAVA_TOOL_OPTIONS", flags)
        made = Stock("", envStepLimit=100_000)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("name", "variation"), [("find-living-thing", 3), ("power-component", 2), ("find-animal", 7)]
)
def test_a_step_is_upstreams(env: ScienceWorldEnv, stock: Any, name: str, variation: int) -> None:
    start(env, name, variation)
    assert env._game is not None
    gold = env._game.gold()
    first, opening = env.reset(options={"task": task(name, variation)})
    stock.load(name, variation, "easy", generateGoldPath=False)
    seed = env._game.seed_of(name, variation, "easy")
    getattr(getattr(stock._gateway.jvm.scala.util, "Random$"), "MODULE$").setSeed(seed)
    text, info = stock.reset()
    assert opening["score"] == info["score"]
    assert (
        first == f"{info['taskDesc'].removeprefix('Task Description:').strip()}\n\n{text.strip()}"
    )
    for action in ["inventory", "dance", "wait1", *gold]:
        ours, theirs = env.step(action), stock.step(action)
        assert ours[0] == theirs[0].strip(), action
        assert ours[1] == pytest.approx(theirs[1] / (100 - info["score"])), action
        assert ours[2] == theirs[2], action
        assert ours[4]["score"] == theirs[3]["score"], action
        if ours[2]:
            break
        assert set(ours[4]["admissible_actions"] or ()) <= set(theirs[3]["valid"]), action
    assert ours[4]["success"]


@pytest.mark.parametrize(
    ("name", "variation", "before"),
    [
        ("boil", 13, ["teleport to kitchen"]),
        ("chemistry-mix", 2, ["teleport to kitchen", "open cupboard", "pick up drain"]),
        ("grow-plant", 1, ["teleport to greenhouse"]),
        ("power-component", 0, ["teleport to workshop", "pick up red wire"]),
    ],
)
def test_what_is_listed_is_what_the_simulator_understands(
    stock: Any, name: str, variation: int, before: list[str]
) -> None:
    env, silent = new(extras=("admissible_actions",)), new(extras=())
    start(env, name, variation)
    listed = [env.step(action) for action in before][-1][4]["admissible_actions"]
    stock.load(name, variation, "easy", generateGoldPath=False)
    stock.reset()
    for action in before:
        *_, theirs = stock.step(action)
    hidden = sorted(set(theirs["valid"]) - set(listed))
    assert set(listed) <= set(theirs["valid"])
    assert bool(hidden) == (name != "power-component"), "what lies in closed cupboards"
    rng = random.Random(name)
    for action in rng.sample(listed, 20) + rng.sample(hidden, min(20, len(hidden))):
        start(silent, name, variation)
        steps = [silent.step(said) for said in (*before, action)]
        assert steps[-1][4]["valid_action"] == (action in listed), action
    env.close()
    silent.close()


@pytest.mark.parametrize("name", SHORT)
def test_the_gold_path_wins_and_its_rewards_sum_to_one(env: ScienceWorldEnv, name: str) -> None:
    chosen = new(task=name).tasks("train")[1]
    env.reset(options={"task": chosen})
    steps = play_gold(env)
    *before, (_, _, terminated, info) = steps
    assert (terminated, info["success"], info["score"], info["progress"]) == (True, True, 100, 1.0)
    assert sum(reward for _, reward, _, _ in steps) == pytest.approx(1)
    assert not any(step[2] or step[3]["success"] or step[3]["progress"] == 1 for step in before)
    names = [step[3]["milestones"] for step in steps]
    assert all(later[: len(earlier)] == earlier for earlier, later in pairwise(names))
    assert any(name.startswith("goal:") for name in names[-1])


def test_a_failure_takes_back_what_was_earned(env: ScienceWorldEnv) -> None:
    start(env, "find-living-thing")
    rewards = [env.step("teleport to kitchen")[1]]
    assert rewards[0] > 0
    _, reward, terminated, truncated, info = env.step("focus on air")
    if not terminated:
        _, reward, terminated, truncated, info = env.step("focus on agent")
    assert (terminated, truncated, info["success"]) == (True, False, False)
    assert (info["score"], info["progress"], info["admissible_actions"]) == (-100, 0, [])
    assert reward + sum(rewards) == pytest.approx(0)


def test_the_turn_limit_counts_actions_that_cost_the_simulator_nothing() -> None:
    env = new(max_turns=3, extras=())
    start(env, "boil")
    assert [env.step("look around")[2:4] for _ in range(3)] == [
        (False, False),
        (False, False),
        (False, True),
    ]
    env.close()


def test_a_question_is_passed_through(env: ScienceWorldEnv) -> None:
    start(env, "grow-plant", 105)
    for action in ("teleport to art studio", "pick up wood cup"):
        env.step(action)
    listed = env.step("look around")[4]["admissible_actions"]
    for action in (a for a in listed or () if "paint" in a):
        text, *_, info = env.step(action)
        if text.startswith("Ambiguous request:"):
            break
    assert info["valid_action"]
    assert (info["admissible_actions"] or [])[:2] == ["0", "1"]
    text, *_, info = env.step("0")
    assert info["valid_action"]
    assert not text.startswith(("Ambiguous", "Unknown"))


def test_what_nobody_understands_is_said_to_be_invalid(env: ScienceWorldEnv) -> None:
    start(env, "boil")
    assert [env.step(action)[4]["invalid_reason"] for action in ("sing", "inventory", "")] == [
        "rejected",
        None,
        "empty",
    ]


def test_the_expert_stays_on_its_path_while_nothing_happens(env: ScienceWorldEnv) -> None:
    start(env, "power-component")
    path = [action for action, *_ in play_gold(env)]
    start(env, "power-component")
    for action in path:
        for idle in ("inventory", "sing a song", "task"):
            env.step(idle)
        assert env.expert_action() == action
        last = env.step(action)
    assert last[4]["success"]
    start(env, "power-component")
    env.step("wait")
    assert env.expert_action() is None


def test_asking_changes_nothing_and_words_repeat(env: ScienceWorldEnv) -> None:
    other = new(extras=())
    for name, variation in (
        ("grow-fruit", 5),
        ("power-component-renewable-vs-nonrenewable-energy", 3),
    ):
        actions = [
            "teleport to greenhouse",
            "look around",
            "wait",
            "open bee hive",
            "wait",
            "look around",
            "teleport to workshop",
            "look around",
        ]
        texts = []
        for player, asks in ((env, True), (other, False), (env, False)):
            seen = [start(player, name, variation)]
            for action in actions:
                if asks and len(seen) == 3 and name.startswith("power"):
                    player.expert_action()
                seen.append(player.step(action)[0])
            texts.append(seen)
        assert texts[0] == texts[1] == texts[2], name
    other.close()


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    action=st.one_of(
        st.text(),
        st.text(alphabet="0123456789 -", min_size=1),
        st.sampled_from(["focus on", "0", "99999999999", "open door. go to"]),
    )
)
def test_any_text_gets_an_answer(env: ScienceWorldEnv, action: str) -> None:
    if env._over:
        start(env, "boil")
    assert isinstance(env.step(action)[0], str)


@given(st.text())
def test_any_table_of_goals_can_be_read(text: str) -> None:
    assert isinstance(reached(text), list)


def test_goals_of_equal_words_are_told_apart() -> None:
    lines = [
        "Sequential Subgoals:",
        "0\ttrue\t X\tgo",
        "Unordered and Optional Subgoals:",
        "0\ttrue\t X\tgo",
        "1\tfalse\t X\ta",
        "2\ttrue\tX\ta",
    ]
    assert reached("\n".join(lines)) == ["goal:go", "subgoal:go", "subgoal:a (2)"]
