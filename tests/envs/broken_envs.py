"""Worlds with one defect each, and the rule that must see it. For ``imports``, like toy_envs."""

from __future__ import annotations

import inspect
import os
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnrl.envs import Outcome, Split, Task, TextEnv, make, register
from turnrl.envs.registry import import_worlds

if TYPE_CHECKING:
    from .toy_envs import CorridorEnv as Corridor
else:
    import_worlds(str(Path(__file__).with_name("toy_envs.py")))
    Corridor = type(make("toy/corridor-v0"))
DEFECTS: dict[str, str] = {}


def breaks(rule: str) -> Any:
    """Register the class as ``broken/<its name>-v0``."""

    def add(cls: type[TextEnv]) -> type[TextEnv]:
        id = f"broken/{cls.__name__.lower()}-v0"
        register(id, cls)
        DEFECTS[id] = rule
        return cls

    return add


@breaks("determinism")
class Dice(Corridor):
    def _act(self, action: str) -> Outcome:
        self.walls = f"{random.random()} grey"
        return super()._act(action)


@breaks("hash_seed")
class Hashed(Corridor):
    def _begin(self, task: Task) -> Outcome:
        super()._begin(task)
        self.walls = str(hash(task.id))
        return self._look("Hello.")


@breaks("other_process")
class ProcessId(Corridor):
    def _begin(self, task: Task) -> Outcome:
        super()._begin(task)
        self.walls = f"{os.getpid()} {self.walls}"
        return self._look("Hello.")


@breaks("isolation")
class SharedState(Corridor):
    shared: dict[str, int] = {}  # noqa: RUF012

    @property
    def cell(self) -> int:
        return self.shared["cell"]

    @cell.setter
    def cell(self, value: int) -> None:
        self.shared["cell"] = value


@breaks("reset")
class Dirty(Corridor):
    walked = 0

    def _act(self, action: str) -> Outcome:
        self.walked += action == "go east"
        return (
            self._look(f"You have walked {self.walked}.")
            if action == "look"
            else super()._act(action)
        )


@breaks("replay")
class AskedExpert(Corridor):
    asked = 0

    def _begin(self, task: Task) -> Outcome:
        self.asked = 0
        return super()._begin(task)

    def expert_action(self) -> str | None:
        self.asked += 1
        return super().expert_action()

    def _act(self, action: str) -> Outcome:
        self.walls = f"{self.asked} grey"
        return super()._act(action)


@breaks("hostile")
class Ascii(Corridor):
    def _act(self, action: str) -> Outcome:
        action.encode("ascii")
        return super()._act(action)


@breaks("latched")
class Undead(Corridor):
    def step(self, action: str) -> Any:
        self._over = False
        return super().step(action)


@breaks("success")
class Endless(Corridor):
    def _look(self, *args: Any, **options: Any) -> Outcome:
        outcome = super()._look(*args, **options)
        return Outcome(
            outcome.observation, reward=outcome.reward, success=self.taken, valid=outcome.valid
        )


@breaks("truncation")
class Impatient(Corridor):
    length = 12

    def step(self, action: str) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return (
            observation,
            reward,
            terminated,
            truncated or (not terminated and self._turns >= 14),
            info,
        )


@breaks("truncation")
class Terminator(Corridor):
    def step(self, action: str) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or truncated, False, info


@breaks("reward_range")
class Generous(Corridor):
    def _act(self, action: str) -> Outcome:
        outcome = super()._act(action)
        return Outcome(outcome.observation, 2.0, outcome.ended, outcome.success, outcome.valid)


@breaks("progress")
class Overachiever(Corridor):
    def _look(self, *args: Any, **options: Any) -> Outcome:
        outcome = super()._look(*args, **options)
        return Outcome(
            outcome.observation,
            outcome.reward,
            outcome.ended,
            outcome.success,
            outcome.valid,
            progress=1.5,
        )


@breaks("tasks")
class Overlap(Corridor):
    def _tasks(self, split: Split) -> list[Task]:
        return [self.task(seed, split) for seed in range(5)]


@breaks("tasks")
class NoTest(Corridor):
    def _tasks(self, split: Split) -> list[Task]:
        return [] if split == "test" else super()._tasks(split)


@breaks("tasks")
class Shuffled(Corridor):
    def _tasks(self, split: Split) -> list[Task]:
        tasks = super()._tasks(split)
        return [*tasks[1:], self.task(random.randrange(10**9, 10**10), split)]


@breaks("tasks")
class WrongSplit(Corridor):
    def _tasks(self, split: Split) -> list[Task]:
        return [task.model_copy(update={"split": "train"}) for task in super()._tasks(split)]


@breaks("info")
class MissingKey(Corridor):
    def _info(self, *args: Any) -> Any:
        info: Any = super()._info(*args)
        del info["milestones"]
        return info


@breaks("info")
class WrongType(Corridor):
    def _info(self, *args: Any) -> Any:
        return super()._info(*args) | {"score": "high"}


@breaks("info")
class LooseBytes(Corridor):
    def _info(self, *args: Any) -> Any:
        return super()._info(*args) | {"artifacts": {"screen": b"png"}}


@breaks("expert")
class Lost(Corridor):
    def expert_action(self) -> str | None:
        return "go east"


@breaks("admissible")
class Liar(Corridor):
    def _look(self, *args: Any, **options: Any) -> Outcome:
        outcome = super()._look(*args, **options)
        return Outcome(
            outcome.observation,
            outcome.reward,
            outcome.ended,
            outcome.success,
            outcome.valid,
            admissible=["fly"],
        )


@breaks("gymnasium")
class Unseeded(Corridor):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(options=options or {"task": self.tasks("train")[(seed or 0) % 6]})


@breaks("files")
class Diary(Corridor):
    def _begin(self, task: Task) -> Outcome:
        Path("diary.txt").write_text("Dear diary")
        return super()._begin(task)


@breaks("tasks")
class Repeated(Corridor):
    def _tasks(self, split: Split) -> list[Task]:
        return super()._tasks(split)[:1] * 3


@breaks("task")
class Careless(Corridor):
    """Takes a parameter that its Tasks do not tell, since another thing decides it too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.walls_of_instance = (
            "grey" if "progress" in self.extras and not self.made_for_a_task() else "red"
        )

    @staticmethod
    def made_for_a_task() -> bool:
        return any(frame.function == "make_for" for frame in inspect.stack())

    def _begin(self, task: Task) -> Outcome:
        super()._begin(task)
        self.walls = f"{self.walls} and {self.walls_of_instance}"
        return self._look("Hello.")


@breaks("splits")
class Twins(Corridor):
    def _begin(self, task: Task) -> Outcome:
        super()._begin(task)
        self.walls = "grey"
        return self._look("Hello.")


@breaks("success")
class Forgetful(Corridor):
    def _look(self, text: str, reward: float = 0.0, valid: bool = True) -> Outcome:
        return replace(super()._look(text, reward, valid), success=False)

    def expert_action(self) -> None:
        return None


@breaks("determinism")
class Sleeper(Corridor):
    def _act(self, action: str) -> Outcome:
        time.sleep(60)
        return super()._act(action)


@breaks("determinism")
class Quitter(Corridor):
    def _act(self, action: str) -> Outcome:
        sys.exit("enough")
