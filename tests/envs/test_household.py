"""Household games: word for word the stock engine's, deterministic, and won from anywhere."""

# What is imported after the check needs the extra.
# ruff: noqa: E402
from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from turnrl.envs import SPLITS, Task, TextEnv, make
from turnrl.foundation.errors import UserError

games = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("household_games.py"))))
games.require()

from turnrl.envs.check.check import check_env
from turnrl.envs.household.engine import HouseholdEngine
from turnrl.envs.household.games import generated, opened
from turnrl.envs.household.problem import sample
from turnrl.envs.pool.pool import EnvPool

EVERYTHING = ("admissible_actions", "progress")
KINDS = games.KINDS


@pytest.fixture(scope="module", autouse=True)
def home(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A cache of games that is not the user's but outlives the run."""
    cache = getattr(request.config, "cache", None)
    folder = cache.mkdir("household") if cache is not None else tmp_path_factory.mktemp("games")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


def started(kind: str, seed: int | None = None, **options: Any) -> TextEnv:
    env = make(f"household/{kind}-v0", **{"extras": EVERYTHING, **options})
    env.reset(options={"task": env.task(games.small(kind) if seed is None else seed)})
    return env


def win(env: TextEnv, limit: int = 40) -> list[tuple[str, dict[str, Any]]]:
    """Let the expert play to the end."""
    turns: list[tuple[str, dict[str, Any]]] = []
    while (action := env.expert_action()) is not None:
        assert len(turns) < limit, turns
        _, reward, ended, _, info = env.step(action)
        turns.append((action, dict(info)))
        assert info["valid_action"], action
        assert reward == float(ended) == float(info["success"])
    assert turns[-1][1]["success"]
    return turns


# -- the engine ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transcripts(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    folders = generated([(kind, games.small(kind)) for kind in KINDS])
    files = [folder / "game.tw-pddl" for folder in folders]
    played: dict[str, list[Any]] = games.stock(files, tmp_path_factory.mktemp("stock"))
    return played


@pytest.mark.parametrize("kind", KINDS)
def test_text_commands_and_verdicts_are_the_stock_engines(
    kind: str, transcripts: dict[str, list[Any]]
) -> None:
    [(path, transcript)] = [item for item in transcripts.items() if f"/{kind}/" in item[0]]
    engine = HouseholdEngine()
    engine.load(opened(Path(path).with_name("compiled.json.gz")))
    for turn, (command, text, listed, won) in enumerate(transcript):
        said = (
            engine.start()
            if command in ("", "<reset>") and turn in (0, 17)
            else engine.send(command).text
        )
        assert (turn, command, said) == (turn, command, text)
        assert engine.commands() == listed, (turn, command)
        assert engine.won == won, (turn, command)
    assert sum(won for *_, won in transcript) >= 1, "the planner's way wins"
    engine.close()


CLEAN = """
import os, sys
argv, out = list(sys.argv), sys.stdout
from turnrl.envs import make
env = make("household/heat-v0")
env.reset(options={"task": env.tasks("test")[0]})
while (action := env.expert_action()):
    env.step(action)
assert (sys.argv, sys.stdout) == (argv, out)
assert "ALFWORLD_DATA" not in os.environ
roots = {name.split(".")[0] for name in sys.modules}
assert not roots & {"alfworld", "textworld", "tatsu"}
print(sorted(os.listdir(os.environ["HOME"])), os.listdir(os.environ["TMPDIR"]))
"""


def test_playing_leaves_the_process_and_the_disk_as_they_were(tmp_path: Path, home: Path) -> None:
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}
    environment.pop("ALFWORLD_DATA", None)
    done = subprocess.run(
        [sys.executable, "-c", CLEAN], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[] []\n"


def test_instances_share_nothing_but_are_reused() -> None:
    one, two = started("place"), started("place")
    action = str(one.expert_action())
    one.step(action)
    assert two.expert_action() == action
    task = one.current
    one.close()
    one.reset(options={"task": task})
    assert one.expert_action() == action


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_many_at_once_play_as_one_does(backend: Any) -> None:
    plays = []
    for kind in ("place", "two", "light"):
        env = started(kind)
        assert env.current is not None
        plays.append((env.current, [(action, info["progress"]) for action, info in win(env)]))

    async def one(pool: EnvPool, task: Task, way: list[tuple[str, float]]) -> None:
        async with pool.episode(task) as session:
            await session.reset()
            for action, progress in way:
                assert await session.expert_action() == action
                *_, info = await session.step(action)
                assert info["progress"] == progress
            assert info["success"]

    async def all_of_them() -> None:
        async with EnvPool(backend=backend, workers=2, options={"extras": EVERYTHING}) as pool:
            await asyncio.gather(*[one(pool, task, way) for task, way in plays * 4])

    asyncio.run(all_of_them())


# -- games -----------------------------------------------------------------------------------------

MAKE = """
from turnrl.envs.household.games import generated
generated([("two", 5), ("light", 1_000_003)], workers=1)
"""


def test_same_bytes_from_every_process_and_hash_seed(tmp_path: Path) -> None:
    def begin(name: str, hash_seed: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(tmp_path / name),
            "PYTHONHASHSEED": hash_seed,
        }
        return subprocess.Popen([sys.executable, "-c", MAKE], env=environment)

    running = [begin("one", "1"), begin("one", "2"), begin("two", "3")]
    assert [process.wait() for process in running] == [0, 0, 0]
    made = [
        {
            str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in root.rglob("*.*")
            if path.is_file()
        }
        for root in (tmp_path / "one", tmp_path / "two")
    ]
    assert made[0] == made[1]
    assert Counter(Path(name).name for name in made[0] if "tw-pddl" in name) == {"game.tw-pddl": 2}


def test_splits_share_no_problem() -> None:
    env = make("household/home-v0")
    sizes = {split: len(env.tasks(split)) for split in SPLITS}
    assert sizes == {"train": 3553, "valid": 140, "test": 134}
    found: dict[str, set[str]] = {}
    plans: dict[str, set[int]] = {}
    for split in SPLITS:
        problems = [sample(task.params["types"][0], task.seed) for task in env.tasks(split)[:140]]
        found[split] = {problem.combination for problem in problems}
        plans[split] = {problem.plan.number for problem in problems}
        assert max(Counter(problem.kind for problem in problems).values()) <= len(problems) // 6 + 1
        assert len(
            {str(sorted(problem.things.items())) + problem.combination for problem in problems}
        ) == len(problems)
    assert not found["train"] & found["valid"]
    assert not plans["test"] & (plans["train"] | plans["valid"])
    assert all(number % 100 <= 6 for number in plans["test"])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(seed=st.integers(0, 2_999_999))
def test_every_problem_keeps_the_rules(kind: str, seed: int) -> None:
    problem = sample(kind, seed)
    assert problem == sample(kind, seed)
    starts = [
        place.rsplit("|", 1)[-1] if place.endswith("Basin") else place.split("|")[0]
        for thing, place in problem.things.items()
        if thing.startswith(f"{problem.target}|")
    ]
    assert len(starts) >= (2 if kind == "two" else 1)
    assert problem.parent not in starts
    assert {"clean": "SinkBasin", "heat": "Microwave", "cool": "Fridge"}.get(kind) not in starts
    assert problem.target.lower() in problem.sentence
    assert problem.parent.lower() in problem.sentence


def test_types_narrow_and_name_the_task() -> None:
    env = make("household/home-v0", types=["two", "heat"])
    assert env.params == {"types": ["heat", "two"]}
    tasks = env.tasks("train")[:4]
    assert [task.params["types"] for task in tasks] == [["heat"], ["two"]] * 2
    assert tasks[0].family != tasks[1].family
    assert env.task(0) == tasks[0]
    for types, words in ((["heet"], "did you mean 'heat'"), ([], "at least one of place")):
        with pytest.raises(UserError, match=words):
            make("household/home-v0", types=types)
    with pytest.raises(UserError, match="unknown key 'types'"):
        make("household/heat-v0", types=["heat"])
    with pytest.raises(UserError, match="not a household/heat-v0 task"):
        make("household/heat-v0").reset(options={"task": tasks[0]})


# -- play ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_expert_wins_from_the_start_and_from_anywhere(kind: str) -> None:
    env = started(kind, extras=EVERYTHING)
    for seed in (games.small(kind), games.small(kind, 2_000_000)):
        task = env.task(seed)
        env.reset(options={"task": task})
        planned = opened(generated([(kind, seed)])[0] / "compiled.json.gz").walkthrough
        way = win(env)
        assert planned
        assert len(way) <= len(planned)
        assert env.expert_action() is None
        for attempt in range(6):
            rng = random.Random(attempt)
            _, info = env.reset(options={"task": task})
            for _ in range(25):
                listed = info["admissible_actions"] or []
                taking = [
                    action
                    for action in listed
                    if action.startswith(("take", "open", "move", "cool", "heat"))
                ]
                if not listed:
                    break
                *_, info = env.step(
                    rng.choice(taking) if taking and rng.random() < 0.5 else rng.choice(listed)
                )
            if not info["success"]:
                win(env)


@pytest.mark.parametrize("kind", KINDS)
def test_the_searching_expert_wins_and_names_only_what_it_has_read(kind: str) -> None:
    for seed in (games.small(kind), games.small(kind, 2_000_000)):
        env = make(f"household/{kind}-v0", expert="search")
        text, info = env.reset(options={"task": env.task(seed)})
        turns = 0
        while (action := env.expert_action()) is not None:
            for name in re.findall(r"[a-z]+ \d+", action):
                assert name in text, f"{action} after {text}"
            said, *_, info = env.step(action)
            assert info["valid_action"], action
            text, turns = text + said, turns + 1
            assert turns < 60, text
        assert info["success"]
        assert turns >= len(win(started(kind, seed)))


def test_the_searching_expert_wins_from_anywhere() -> None:
    env = make("household/home-v0", expert="search")
    for task in env.seeded(
        [games.small(kind) // 6 * 6 + KINDS.index(kind) for kind in KINDS], "train"
    ):
        for attempt in range(3):
            rng = random.Random(attempt)
            _, info = env.reset(options={"task": task})
            for _ in range(15):
                if not info["success"]:
                    *_, info = env.step(rng.choice(info["admissible_actions"] or [""]))
            turns = 0
            while (action := env.expert_action()) is not None:
                *_, info = env.step(action)
                turns += 1
                assert turns < 120, (task.id, action)
            assert info["success"]


def test_which_expert_plays_stands_in_the_task() -> None:
    env = make("household/home-v0", types=["heat"], expert="search")
    task = env.tasks("test")[0]
    assert task.params == {"expert": "search", "types": ["heat"]}
    assert make("household/heat-v0", expert="shortest").tasks("test")[0].params == {}
    with pytest.raises(UserError, match="expert"):
        make("household/heat-v0", expert="longest")


def test_the_expert_puts_down_what_is_in_the_way() -> None:
    env = started("heat")
    info = env.step("look")[4]
    target = str(env.expert_action())
    others = []
    for place in [
        action for action in info["admissible_actions"] or [] if action.startswith("go to")
    ]:
        info = env.step(place)[4]
        wanted = sample("heat", env.current.seed).target.lower()  # type: ignore[union-attr]
        others = [
            a for a in info["admissible_actions"] or [] if a.startswith("take") and wanted not in a
        ]
        if others:
            break
    env.step(others[0])
    way = [action for action, _ in win(env)]
    assert target
    assert any(action.startswith("move " + others[0].split()[1]) for action in way)


@pytest.mark.parametrize(
    ("kind", "reached"),
    [
        ("place", ["held", "at receptacle", "done"]),
        ("light", ["held", "at lamp", "lamp on", "done"]),
        ("clean", ["held", "cleaned", "at receptacle", "done"]),
        ("heat", ["held", "heated", "at receptacle", "done"]),
        ("cool", ["held", "cooled", "at receptacle", "done"]),
        ("two", ["held", "at receptacle", "one placed", "done"]),
    ],
)
def test_milestones_and_progress_follow_the_expert(kind: str, reached: list[str]) -> None:
    env = started(kind)
    infos = [info for _, info in win(env)]
    assert infos[-1]["milestones"] == reached
    progress = [0.0, *(info["progress"] for info in infos)]
    assert progress == sorted(set(progress))
    assert progress[-1] == 1.0
    with pytest.raises(RuntimeError, match="over"):
        env.step("look")


def test_progress_falls_on_a_step_back_and_never_pays_a_circle() -> None:
    env = started("place")
    infos: list[dict[str, Any]] = [dict(env.step("look")[4])]
    while "held" not in infos[-1]["milestones"]:
        take = str(env.expert_action())
        infos.append(dict(env.step(take)[4]))
    thing, place = take.removeprefix("take ").split(" from ")
    back = env.step(f"move {thing} to {place}")[4]
    again = env.step(take)[4]
    assert back["progress"] == infos[-2]["progress"] < infos[-1]["progress"] == again["progress"]
    assert back["milestones"] == ["held"]


def test_commands_are_matched_after_trimming_and_lower_casing() -> None:
    env = started("place")
    action = next(
        a for a in env.step("look")[4]["admissible_actions"] or [] if a.startswith("go to")
    )
    for spelled in (
        action.upper(),
        "  Look. ",
        "EXAMINE   " + action.removeprefix("go to "),
        "inventory",
    ):
        assert env.step(spelled)[4]["valid_action"], spelled
    for spelled in (f"{action}. look", "go", f"please {action}", "go to moon 1", "put it away"):
        text, reward, ended, _, info = env.step(spelled)
        assert (text, reward, ended, info["invalid_reason"]) == (
            "Nothing happens.",
            0.0,
            False,
            "rejected",
        ), spelled
    assert "move OBJECT to RECEPTACLE" in env.instructions


@pytest.fixture(scope="module")
def lent(home: Path) -> TextEnv:
    return started("clean", extras=("progress",))


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    text=st.one_of(
        st.text(),
        st.lists(st.sampled_from(["go", "to", "take", "{r}", "#task#", "1", "."])).map(" ".join),
    )
)
def test_any_text_gets_an_observation(lent: TextEnv, text: str) -> None:
    observation, reward, ended, _, _ = lent.step(text)
    assert observation
    assert (reward, ended) == (0.0, False)


def test_the_contract() -> None:
    check_env("household/home-v0", params={"types": ["light"]})
