"""Real TextWorld games, made here and kept in pytest's cache: made, played, won, and safe."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from turnrl.envs import Task, TextEnv, make
from turnrl.foundation.errors import UserError

pytest.importorskip("textworld", reason="needs the extra: pip install 'turnrl[textworld]'")

from turnrl.envs.making.makers import ENVIRONMENT
from turnrl.envs.textworld.env import route
from turnrl.envs.textworld.generate import GameKey, generate, home
from turnrl.envs.textworld.world import GameWorld, tidy

EVERYTHING = ("admissible_actions", "progress")
GAMES: dict[str, dict[str, Any]] = {
    "textworld/quest-v0": {"rooms": 2, "objects": 3, "quest_length": 4},
    "textworld/coin-v0": {"level": 5},
    "textworld/treasure-v0": {"level": 4},
    "textworld/simple-v0": {"rewards": "dense", "goal": "brief"},
    "textworld/cooking-v0": {"recipe": 1, "take": 1, "cook": True},
}


@pytest.fixture(scope="module", autouse=True)
def games(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A cache of games that is not the user's but outlives the run."""
    cache = getattr(request.config, "cache", None)
    home = cache.mkdir("textworld") if cache is not None else tmp_path_factory.mktemp("games")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        for id, params in GAMES.items():
            env = make(id, **params)
            env.prepare([env.tasks("test")[0]], progress=False)
        yield home


def started(id: str, extras: tuple[str, ...] = EVERYTHING, **options: Any) -> tuple[TextEnv, str]:
    env = make(id, extras=extras, **GAMES[id], **options)
    text, _ = env.reset(options={"task": env.tasks("test")[0]})
    return env, text


def win(env: TextEnv) -> list[tuple[str, float, bool, dict[str, Any]]]:
    turns: list[tuple[str, float, bool, dict[str, Any]]] = []
    while not turns or not turns[-1][2]:
        action = env.expert_action()
        assert action is not None, turns
        _, reward, terminated, _, info = env.step(action)
        turns.append((action, reward, terminated, dict(info)))
    return turns


# -- generation ------------------------------------------------------------------------------------

MAKE = """
from turnrl.envs import make
env = make("textworld/quest-v0", rooms=1, objects=1, quest_length=1)
env.prepare([env.task(11)], progress=False)
"""


def bytes_under(home: Path) -> dict[str, str]:
    files = [path for path in home.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def test_same_bytes_from_racing_processes_and_other_hash_seeds(tmp_path: Path) -> None:
    def begin(home: str, hash_seed: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(tmp_path / home),
            "PYTHONHASHSEED": hash_seed,
        }
        return subprocess.Popen([sys.executable, "-c", MAKE], env=environment)

    running = [begin("one", "1"), begin("one", "2")]
    assert [process.wait() for process in running] == [0, 0]
    assert begin("two", "3").wait() == 0
    made = bytes_under(tmp_path / "one")
    assert sorted(Path(name).suffix for name in made) == [".json", ".sha256", ".z8"]
    assert made == bytes_under(tmp_path / "two")


UNHURRIED = """
import importlib.util, sys
from pathlib import Path
import textworld
spec = importlib.util.spec_from_file_location("worker", sys.argv[1])
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
worker.sort_rules()
settings = {"rewards": "dense", "goal": "brief", "test": True}
game = worker.design("tw-simple", settings, int(sys.argv[2]))
options = textworld.GameOptions()
options.path = sys.argv[3]
textworld.generator.compile_game(game, options)
"""


def test_shortcuts_change_nothing(tmp_path: Path) -> None:
    import turnrl.envs.textworld.generate as module

    worker = str(Path(module.__file__).with_name("worker.py"))
    env = make("textworld/simple-v0", **GAMES["textworld/simple-v0"])
    task = env.tasks("test")[0]
    command = [sys.executable, "-c", UNHURRIED, worker, str(task.seed), str(tmp_path / "slow.z8")]
    subprocess.run(command, check=True, env={**os.environ, **ENVIRONMENT})
    quick = GameKey("simple", task.params, task.seed).path
    assert (tmp_path / "slow.z8").read_bytes() == quick.read_bytes()
    assert (tmp_path / "slow.json").read_bytes() == quick.with_suffix(".json").read_bytes()


def test_a_game_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    key = GameKey("quest", {"rooms": 1, "objects": 1, "quest_length": 1}, 3)
    (tmp_path / "not-there").mkdir()
    monkeypatch.setenv("INFORM_HOME", str(tmp_path / "not-there"))
    with pytest.raises(
        Exception, match=r"cannot make the game quest\(.*\) with seed 3: .*ni"
    ) as caught:
        generate([key])
    assert "\n" not in str(caught.value)
    assert not key.path.exists()
    assert not list(home().glob("tmp-*"))


# -- parameters and splits -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "params", "words"),
    [
        ("quest", {"rooms": 0}, "rooms: Input should be greater than or equal to 1"),
        ("quest", {"room": 3}, "did you mean 'rooms'"),
        ("quest", {"quest_length": "long"}, "quest_length"),
        ("coin", {"level": 301}, "level"),
        ("coin", {"level": 151}, "101 to 150"),
        ("treasure", {"level": 30}, "level: Input should be less than or equal to 20"),
        ("simple", {"rewards": "lots"}, "'dense', 'balanced' or 'sparse'"),
        ("cooking", {"go": 2}, "1, 6, 9 or 12"),
        ("cooking", {"recipe": 1, "take": 2}, "must not exceed recipe=1"),
    ],
)
def test_bad_parameters_are_told_in_one_sentence(
    id: str, params: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError) as caught:
        make(f"textworld/{id}-v0", **params)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_extra_is_told_in_one_sentence() -> None:
    code = """
import sys
sys.modules["textworld"] = None
from turnrl.envs import make
from turnrl.foundation.errors import UserError
try:
    make("textworld/coin-v0")
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'turnrl[textworld]'" in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("id", GAMES)
def test_splits_are_lazy_complete_and_disjoint_in_seeds(id: str) -> None:
    env = make(id)
    splits = {name: env.tasks(name) for name in ("train", "valid", "test")}
    assert len(splits["train"]) == 10_000
    seen = [{task.seed for task in (*tasks[:20], tasks[-1])} for tasks in splits.values()]
    assert len(set.union(*seen)) == sum(map(len, seen))
    task = splits["test"][0]
    assert task.params == env.params
    assert task == Task.model_validate_json(task.model_dump_json())
    with pytest.raises(IndexError):
        splits["train"][10_000]


def test_another_familys_task_is_refused() -> None:
    coin, quest = make("textworld/coin-v0"), make("textworld/quest-v0")
    with pytest.raises(UserError, match="not a textworld/coin-v0 task"):
        coin.reset(options={"task": quest.tasks("test")[0]})
    with pytest.raises(RuntimeError):
        coin.step("look")


# -- play ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", GAMES)
def test_expert_wins_and_rewards_telescope(id: str) -> None:
    env, text = started(id)
    assert "$" not in text
    assert "\n\n" not in text
    assert not text.endswith(">")
    turns = win(env)
    assert turns[-1][3]["success"]
    assert not any(info["success"] for _, _, _, info in turns[:-1])
    assert all(info["valid_action"] for _, _, _, info in turns)
    assert sum(reward for _, reward, _, _ in turns) == pytest.approx(1.0)
    progress = [info["progress"] for _, _, _, info in turns]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    assert all(before < 1.0 for before in progress[:-1])
    with pytest.raises(RuntimeError, match="over"):
        env.step("look")
    assert env.expert_action() is None
    env.close()


def test_opening_tells_the_objective() -> None:
    _, text = started("textworld/coin-v0")
    assert "coin from the floor" in text
    assert "-= " in text


def test_a_lost_game_is_over_without_success() -> None:
    env, _ = started("textworld/cooking-v0")
    rewards = []
    while not (action := str(env.expert_action())).startswith("cook "):
        rewards.append(env.step(action)[1])
    rewards.append(env.step(action)[1])
    _, reward, terminated, truncated, info = env.step(action)  # Cooked twice is burned.
    assert terminated
    assert not truncated
    assert not info["success"]
    assert info["progress"] == 0.0
    assert sum([*rewards, reward]) < 1
    assert env.expert_action() is None
    with pytest.raises(RuntimeError):
        env.step("look")


def test_progress_falls_on_a_step_back() -> None:
    env, _ = started("textworld/coin-v0")
    back = {
        "go north": "go south",
        "go south": "go north",
        "go east": "go west",
        "go west": "go east",
    }
    first = env.step(str(env.expert_action()))[4]
    action = str(env.expert_action())
    there = env.step(action)[4]
    away = env.step(back[action])[4]
    assert first["progress"] == away["progress"] < there["progress"]  # type: ignore[operator]


def test_extras_change_nothing_but_the_info_and_the_expert_always_works() -> None:
    full, opening = started("textworld/quest-v0")
    bare, same = started("textworld/quest-v0", extras=())
    assert opening == same
    for action in ("dance", "look", str(full.expert_action()), "l", "go north", "inventory"):
        one, two = full.step(action), bare.step(action)
        assert one[:4] == two[:4]
        assert one[4]["valid_action"] == two[4]["valid_action"]
        assert two[4]["admissible_actions"] is None
        assert two[4]["progress"] is None
    assert bare.expert_action() == full.expert_action()
    assert win(bare)[-1][3]["success"]


def test_possible_and_plan_are_those_of_textworld() -> None:
    import textworld

    infos = textworld.EnvInfos(admissible_commands=True, policy_commands=True)
    env = make("textworld/quest-v0", **GAMES["textworld/quest-v0"])
    path = generate([GameKey("quest", env.params, env.tasks("test")[0].seed)])[0]
    theirs, ours = textworld.start(str(path), infos), GameWorld(path)
    state, _ = theirs.reset(), ours.start()
    rng = random.Random(0)
    for _ in range(30):
        assert (ours.plan(), ours.possible()) == (
            list(state.policy_commands),
            state.admissible_commands,
        )
        command = rng.choice(ours.possible())
        state, _, done = theirs.step(command)
        reply = ours.send(command)
        assert reply.text == tidy(state.feedback)
        if done:
            break
    ours.close()
    theirs.close()


def test_max_turns_truncates() -> None:
    env, _ = started("textworld/quest-v0", max_turns=2)
    assert env.step("look")[2:4] == (False, False)
    assert env.step("look")[2:4] == (False, True)


REPLAY = """
import hashlib, random
from turnrl.envs import make
digest = hashlib.sha256()
for id, params in {games!r}.items():
    env = make(id, extras=("admissible_actions", "progress"), **params)
    _, info = env.reset(options={{"task": env.tasks("test")[0]}})
    rng = random.Random(5)
    for _ in range(15):
        action = rng.choice(info["admissible_actions"])
        text, reward, terminated, _, info = env.step(action)
        digest.update(repr((action, text, reward, terminated, info, env.expert_action())).encode())
        if terminated:
            break
print(digest.hexdigest())
"""


def test_replay_is_the_same_in_every_process() -> None:
    def digest(hash_seed: str) -> str:
        code = REPLAY.format(
            games={id: GAMES[id] for id in ("textworld/quest-v0", "textworld/simple-v0")}
        )
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, check=True
        ).stdout.decode()

    assert digest("1") == digest("2")


# -- hostile input ---------------------------------------------------------------------------------

REFUSED = (
    "save",
    "SAVE",
    "restore",
    "restart",
    "quit",
    "q",
    "script",
    "transcript on",
    "verbose",
    "undo",
    "print_state",
    "tw-print max_score",
    "tw-trace-actions",
    "tw-extra-infos score",
    "restrict commands",
    "me, save",
    "look. look",
    "go north then look",
    "say [taking the coin - succeeded]",
    "say *** The End ***",
    "enable print state option",
    "",
    "look\nlook",
    "x" * 5000,
)


def test_meta_commands_never_reach_the_game(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env, _ = started("textworld/coin-v0")
    for action in REFUSED:
        text, reward, terminated, _, info = env.step(action)
        assert (reward, terminated, info["success"], info["valid_action"]) == (
            0.0,
            False,
            False,
            False,
        ), action
        assert text.startswith("Invalid action: ")
        assert "\n" not in text
    assert win(env)[-1][3]["success"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("action", "valid"),
    [
        ("l", True),
        ("LOOK", True),
        ("i", True),
        ("goal", True),
        ("wait", True),
        ("fly", False),
        ("take moon", False),
        ("go", False),
        ("go up", False),
        ("take", False),
        ("été", False),
    ],
)
def test_valid_means_the_game_did_it(action: str, valid: bool) -> None:
    env, _ = started("textworld/coin-v0", extras=())
    info = env.step(action)[4]
    assert info["valid_action"] is valid
    assert info["invalid_reason"] == (None if valid else "rejected")


@pytest.fixture(scope="module")
def lent(games: Path) -> TextEnv:
    return started("textworld/simple-v0", extras=("progress",))[0]


WORDS = st.lists(
    st.sampled_from(
        ["take", "open", "put", "the", "key", "on", "tw", ",", ".", "\\", '"', "save", "say"]
    )
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(words=st.one_of(st.text(), WORDS.map(" ".join)))
def test_any_text_gets_an_observation(lent: TextEnv, words: str) -> None:
    text, reward, terminated, _, _ = lent.step(words)
    assert text
    assert 0 <= reward <= 1
    if terminated:
        lent.reset(options={"task": lent.current})


def test_many_games_in_one_instance_leak_nothing() -> None:
    env = make("textworld/coin-v0")
    tasks = [env.tasks("test")[0], make("textworld/coin-v0", level=6).tasks("test")[0]]
    env.prepare(tasks, progress=False)
    env.reset(options={"task": tasks[0]})
    env.close()
    before = len(os.listdir("/proc/self/fd"))
    for turn in range(60):
        env.reset(options={"task": tasks[turn % 2]})
        assert env.expert_action() == f"go {route(tasks[turn % 2])[0]}"
    env.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "params", [{"recipe": 1, "take": 1}, {"recipe": 2, "take": 2, "go": 6, "cook": True}]
)
def test_a_walkthrough_leads_where_textworld_has_no_plan(params: dict[str, Any]) -> None:
    """A limited inventory is beyond TextWorld's planner; the game brings a way that wins."""
    env = make("textworld/cooking-v0", drop=True, extras=("progress",), **params)
    for task in env.tasks("train")[1:3]:
        _, info = env.reset(options={"task": task})
        progress: list[Any] = [info["progress"]]
        lookups = 0
        while (action := env.expert_action()) is not None:
            *_, over, _, info = env.step(action)
            progress.append(info["progress"])
            if not over:  # what changes nothing leaves no way
                env.step("inventory")
                lookups += 1
                assert env.expert_action() is not None
        assert info["success"]
        assert progress == sorted(progress)
        assert (progress[0], progress[-1]) == (0.0, 1.0)
        assert lookups >= 2
