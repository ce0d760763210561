"""alfworld/text-v0 on a small tree of the official shape, made from generated games."""

# What is imported after the check needs the extra.
# ruff: noqa: E402
from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from turnrl.envs import TextEnv, make, make_for
from turnrl.foundation.errors import UserError

games = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("household_games.py"))))
games.require()

from turnrl.envs.check.check import check_env
from turnrl.envs.household.games import generated
from turnrl.envs.household.official import _by_seed, _playable

from ..logged import logged

ID = "alfworld/text-v0"


@pytest.fixture(scope="module", autouse=True)
def home(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A cache of games that is not the user's but outlives the run."""
    cache = getattr(request.config, "cache", None)
    folder = cache.mkdir("household") if cache is not None else tmp_path_factory.mktemp("games")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.delenv("ALFWORLD_DATA", raising=False)
        yield folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two games to train on, one each to validate and test, and five that the loader leaves out."""
    place, light, two = generated([(kind, games.small(kind)) for kind in ("place", "light", "two")])
    games.official(tmp_path, place, "train")
    games.official(tmp_path, light, "train")
    games.official(tmp_path, two, "valid_seen")
    games.official(tmp_path, place, "valid_unseen", "pick_and_place_simple-Other-None-Room-9")
    games.official(tmp_path, place, "train", "pick_and_place_with_movable_recep-A-B-C-1")
    games.official(tmp_path, place, "train", "pick_and_place_simple-AppleSliced-None-Fridge-1")
    games.official(
        tmp_path, place, "train", "pick_and_place_simple-Unsolvable-None-Fridge-1", solvable=False
    )
    lone = games.official(tmp_path, place, "train", "pick_and_place_simple-Lone-None-Fridge-1")
    (lone / "traj_data.json").unlink()
    odd = games.official(tmp_path, place, "train", "pick_and_place_simple-Odd-None-Fridge-1")
    (odd / "traj_data.json").write_text('{"task_type": "dance"}')
    _by_seed.cache_clear()
    _playable.cache_clear()
    return tmp_path


def opened(tree: Path, **params: object) -> TextEnv:
    return make(ID, data=str(tree), extras=("admissible_actions", "progress"), **params)


LOADER = """
import json, os, sys
from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv, TASK_TYPES
root = sys.argv[1] + "/json_2.1.1/"
dataset = {"data_path": root + "train", "eval_id_data_path": root + "valid_seen",
           "eval_ood_data_path": root + "valid_unseen", "num_train_games": 0, "num_eval_games": 0}
env = {"goal_desc_human_anns_prob": 0, "task_types": list(TASK_TYPES)}
config = {"dataset": dataset, "env": env}
names = ("train", "eval_in_distribution", "eval_out_of_distribution")
files = [AlfredTWEnv(config, name).game_files for name in names]
print(json.dumps([sorted(map(os.path.realpath, paths)) for paths in files]))
"""


def test_each_split_has_the_games_of_the_official_loader(
    tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    environment = {**os.environ, "ALFWORLD_DATA": str(tmp_path_factory.mktemp("data"))}
    command = [sys.executable, "-c", LOADER, str(tree)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout.splitlines()[-1])
    env = opened(tree)
    for split, paths in zip(("train", "valid", "test"), theirs, strict=True):
        assert [str(env._path(task)) for task in env.tasks(split)] == paths  # type: ignore[attr-defined]
    assert [len(paths) for paths in theirs] == [2, 1, 1]


def test_tasks_name_their_type_and_outlive_changes_of_the_tree(tree: Path) -> None:
    env = opened(tree)
    tasks = list(env.tasks("train"))
    assert sorted(task.params["types"][0] for task in tasks) == ["light", "place"]
    [light] = opened(tree, types=["light"]).tasks("train")
    assert light in tasks
    assert light.params == {"types": ["light"], "data": str(tree)}
    _, info = make_for(light).reset(options={"task": light})
    assert info["valid_action"]
    shutil.rmtree(next((tree / "json_2.1.1" / "train").glob("pick_and_place_simple-*-None-*")))
    _by_seed.cache_clear()
    _playable.cache_clear()
    assert light in opened(tree).tasks("train")
    gone = next(task for task in tasks if task != light)
    if gone not in opened(tree).tasks("train"):
        with pytest.raises(UserError, match="no game under"):
            env.reset(options={"task": gone.model_copy(update={"seed": 5})})


def test_a_part_of_the_data_is_called_a_part(tree: Path) -> None:
    env = opened(tree)
    assert env.counts() == {"train": 2, "valid": 1, "test": 1}  # type: ignore[attr-defined]
    with logged("valid_unseen has 1 of 134 official games .* no ALFWorld result"):
        env.tasks("test")
    before = env.fingerprint("train")  # type: ignore[attr-defined]
    game = next((tree / "json_2.1.1" / "train").glob("look_at_obj*/*/game.tw-pddl"))
    game.write_text(game.read_text().replace(": ", ":  ", 1))
    assert env.fingerprint("train") != before  # type: ignore[attr-defined]


def test_the_verb_is_that_of_the_data(tree: Path) -> None:
    env = opened(tree)
    assert "move OBJECT" not in env.instructions
    for file in tree.rglob("valid_unseen/*/*/game.tw-pddl"):
        game = json.loads(file.read_text())
        game["grammar"] = game["grammar"].replace("move {o} to {r}", "put {o} in/on {r}")
        file.write_text(json.dumps(game))
    said = []
    for split in ("test", "train"):
        _, info = env.reset(options={"task": env.tasks(split)[-1]})
        while (action := env.expert_action()) is not None:
            said.append(action)
            *_, info = env.step(action)
        assert info["success"]
        assert (
            "put OBJECT in/on RECEPTACLE" if split == "test" else "move OBJECT to"
        ) in env.instructions
    assert [action.split()[0] for action in said if " in/on " in action] == ["put"]


def test_missing_and_broken_data_is_told_in_one_sentence(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tree / "nobody"))
    with pytest.raises(UserError, match=r"ALFWORLD_DATA is not set.*alfworld-download") as caught:
        make(ID).tasks("train")
    assert str(tree / "nobody" / ".cache" / "alfworld") in str(caught.value)
    monkeypatch.setenv("ALFWORLD_DATA", str(tree / "elsewhere"))
    with pytest.raises(UserError, match=r"elsewhere \(\$ALFWORLD_DATA\)"):
        make(ID).tasks("train")
    monkeypatch.setenv("ALFWORLD_DATA", str(tree))
    [task] = make(ID).tasks("valid")
    file = next(tree.rglob("valid_seen/*/*/game.tw-pddl"))
    whole = json.loads(file.read_text())
    for broken in (
        "{",
        "[]",
        json.dumps({**whole, "pddl_problem": "(define (problem x)"}),
        json.dumps({"grammar": ""}),
    ):
        file.write_text(broken)
        with pytest.raises(UserError) as caught:
            make(ID).reset(options={"task": task})
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)
    file.write_text("{")
    _playable.cache_clear()
    with pytest.raises(UserError, match="cannot be read"):
        make(ID).tasks("valid")


def test_the_contract(tree: Path) -> None:
    check_env(ID, params={"data": str(tree)})


def test_a_grammar_that_says_more_than_it_may_is_refused_and_not_run(
    tree: Path, tmp_path: Path
) -> None:
    proof = tmp_path / "proof"
    [file] = (tree / "json_2.1.1" / "valid_seen").glob("*/*/game.tw-pddl")
    game = json.loads(file.read_text("utf-8"))
    planted = f"{{__import__('pathlib').Path('{proof}').touch()}}"
    assert "{r.name" in game["grammar"]
    file.write_text(
        json.dumps(
            game
            | {"grammar": game["grammar"].replace("You arrive at ", f"You arrive at {planted} ")}
        )
    )
    env = make(ID, data=str(tree))
    with pytest.raises(UserError, match=r"game\.tw-pddl: the grammar's expression .* is none"):
        env.reset(options={"task": env.tasks("valid")[0]})
    assert not proof.exists()


@pytest.mark.parametrize(
    "damage", [lambda held: held[: len(held) // 2], lambda held: b"", lambda held: b"{}"]
)
def test_a_damaged_game_of_the_users_is_one_sentence_with_its_name(
    tree: Path, damage: Callable[[bytes], bytes]
) -> None:
    env = make(ID, data=str(tree))
    task = env.tasks("valid")[0]
    [file] = (tree / "json_2.1.1" / "valid_seen").glob("*/*/game.tw-pddl")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=r"game\.tw-pddl") as caught:
        env.reset(options={"task": task})
    assert "\n" not in str(caught.value)
