"""Small worlds for the tests; workers import them by ``imports=[path of this file]``."""

from __future__ import annotations

import os
import time

from pydantic import Field
from turnrl.envs import EnvSettings, Outcome, Split, Task, TextEnv, register

WALLS = (
    "grey",
    "red",
    "blue",
    "green",
    "white",
    "black",
    "pink",
    "brown",
    "gold",
    "teal",
    "plum",
    "lime",
)
SEEDS: dict[str, range] = {"train": range(6), "valid": range(6, 9), "test": range(9, 12)}


class CorridorEnv(TextEnv):
    """A corridor of ``length`` cells with a coin in the last one. The seed decides its walls."""

    class Settings(EnvSettings):
        length: int | None = Field(None, ge=1, description="cells (default: the class's own)")

    settings: Settings
    instructions = "Reach the end of the corridor and take the coin: go east, go west, take coin."
    length = 3

    def _tasks(self, split: Split) -> list[Task]:
        return [self.task(seed, split) for seed in SEEDS[split]]

    def _begin(self, task: Task) -> Outcome:
        self.cell, self.taken = 0, False
        self.goal = self.settings.of_task(task).length or self.length
        self.walls = WALLS[task.seed % len(WALLS)]
        return self._look("You are in a corridor.")

    def _act(self, action: str) -> Outcome:
        if action not in self._admissible():
            return self._look("You cannot do that.", valid=False)
        if action == "take coin":
            self.taken = True
            return self._look("Taken.", reward=1.0)
        self.cell += 1 if action == "go east" else -1
        return self._look("You walk.")

    def expert_action(self) -> str | None:
        return "take coin" if self.cell == self.goal else "go east"

    def _admissible(self) -> list[str]:
        east = ["go east"] if self.cell < self.goal else ["take coin"]
        return east + (["go west"] if self.cell > 0 else [])

    def _look(self, text: str, reward: float = 0.0, valid: bool = True) -> Outcome:
        return Outcome(
            f"{text} Cell {self.cell}, {self.walls} walls.",
            reward=reward,
            ended=self.taken,
            success=self.taken,
            valid=valid,
            admissible=self._admissible(),
            score=float(self.taken),
            progress=1.0 if self.taken else self.cell / (self.goal + 1),
            milestones=["end"] if self.cell == self.goal else [],
        )


class FaultyEnv(CorridorEnv):
    """Does what it is told: crash, exit, hang, stderr, pid, cwd, memory, file."""

    length = 1000

    def _act(self, action: str) -> Outcome:
        if action == "crash":
            raise ValueError("the world fell apart")
        if action == "exit":
            os._exit(3)
        if action == "hang":
            time.sleep(600)
        if action == "memory":
            self.ballast = bytearray(os.urandom(1 << 20) * 64)
        if action == "file":
            with open("left-behind", "w") as file:
                file.write("x")
        return Outcome(
            f"{os.getpid()} {os.getcwd()}" if action == "pid" else super()._act(action).observation
        )


class BusyEnv(CorridorEnv):
    """Computes for about 0.8 ms per step, like a text game does."""

    length = 10_000

    def _act(self, action: str) -> Outcome:
        end = time.perf_counter() + 0.0008
        while time.perf_counter() < end:
            pass
        return super()._act(action)


class OutsideEnv(CorridorEnv):
    """Cannot run in threads."""

    in_process = False


for name, cls in {
    "corridor": CorridorEnv,
    "faulty": FaultyEnv,
    "busy": BusyEnv,
    "outside": OutsideEnv,
}.items():
    register(f"toy/{name}-v0", cls)
