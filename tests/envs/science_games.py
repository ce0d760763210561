"""What the tests of ScienceWorld share: instances, tasks, and their Java processes."""

from __future__ import annotations

import time
from typing import Any

import psutil
from turnrl.envs import Task, make
from turnrl.envs.scienceworld.env import ScienceWorldEnv

ID = "scienceworld/task-v0"
EVERYTHING = ("admissible_actions", "progress")


def new(**options: Any) -> ScienceWorldEnv:
    made = make(ID, **{"extras": EVERYTHING, **options})
    assert isinstance(made, ScienceWorldEnv)
    return made


def task(name: str, variation: int = 0, simplification: str = "easy") -> Task:
    return Task(env=ID, params={"task": name, "simplification": simplification}, seed=variation)


def start(env: ScienceWorldEnv, name: str, variation: int = 0) -> str:
    return env.reset(options={"task": task(name, variation)})[0]


def pid(env: ScienceWorldEnv) -> int:
    assert env._game is not None
    return env._game.java.process.pid


def gone(number: int, seconds: float = 20) -> bool:
    """Whether the process has ended, or does soon."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False
