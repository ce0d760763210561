"""Shared by the household tests: is the extra there, and how does the stock engine play?"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WANTED = "pip install 'turnrl[alfworld]' (builds Fast Downward: needs g++ and make)"
KINDS = ("place", "light", "clean", "heat", "cool", "two")


def require() -> None:
    """Skip the module without the extra, and fail where CI=true."""
    if all(importlib.util.find_spec(name) for name in ("alfworld", "fast_downward")):
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"not installed: {WANTED}", pytrace=False)
    pytest.skip(f"needs the extra: {WANTED}", allow_module_level=True)


def small(kind: str, start: int = 0) -> int:
    """Choose the seed among sixty with the smallest room: in a big one the stock engine is slow."""
    from turnrl.envs.household.problem import sample

    return min(range(start, start + 60), key=lambda seed: len(sample(kind, seed).plan.receptacles))


STOCK = """
import json, random, sys
from textworld import EnvInfos
from textworld.envs import PddlEnv
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler, AlfredInfos
env = AlfredInfos(AlfredDemangler(PddlEnv(EnvInfos(won=True, admissible_commands=True))))
transcripts, out = {}, sys.stdout
for path in json.loads(sys.argv[1]):
    way = json.load(open(path))["walkthrough"]
    rng = random.Random(path.rpartition("/")[0].rpartition("/")[0].rpartition("/")[2])
    env.load(path)
    state = env.reset()
    seen = [["", state.feedback, state.admissible_commands, bool(state.won)]]
    def step(command):
        state, _, _ = env.step(command)
        seen.append([command, state.feedback, state.admissible_commands, bool(state.won)])
    for turn in range(14):
        listed = seen[-1][2]
        # Where there is something to take, put, open, heat ..., that half of the time.
        idle = ("go", "examine", "look", "inventory", "help")
        busy = [c for c in listed if c.split()[0] not in idle]
        step(rng.choice([rng.choice(busy or listed), rng.choice(listed)]))
        if turn % 5 == 4:
            step(rng.choice(["dance", "Look", "go to moon 1", "take", "", "put it away"]))
    state = env.reset()
    seen.append(["<reset>", state.feedback, state.admissible_commands, bool(state.won)])
    for command in way:
        step(command)
    step("look")
    transcripts[path] = seen
print(json.dumps(transcripts), file=out)
"""


def stock(paths: list[Path], home: Path) -> dict[str, list[Any]]:
    """Play games with the stock engine: by path, [command, text, admissible commands, won]."""
    environment = {**os.environ, "ALFWORLD_DATA": str(home / "data"), "HOME": str(home)}
    command = [sys.executable, "-c", STOCK, json.dumps([str(path) for path in paths])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def official(tree: Path, folder: Path, split: str, task: str = "", **change: Any) -> Path:
    """Copy a generated game to its official place; `change` replaces keys of the file."""
    trajectory = json.loads((folder / "traj_data.json").read_text())
    params = trajectory["pddl_params"]
    names = (
        trajectory["task_type"],
        params["object_target"],
        "None",
        params["parent_target"] or "None",
    )
    task = task or "-".join([*names, str(trajectory["scene"]["scene_num"])])
    place = tree / "json_2.1.1" / split / task / f"trial_{folder.name}"
    place.mkdir(parents=True)
    shutil.copyfile(folder / "traj_data.json", place / "traj_data.json")
    game = json.loads((folder / "game.tw-pddl").read_text())
    (place / "game.tw-pddl").write_text(json.dumps({**game, **change}))
    return place
