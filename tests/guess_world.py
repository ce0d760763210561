"""A world for tests of the command line: guess a digit. Registers itself when imported."""

from __future__ import annotations

from collections.abc import Sequence

import turnrl
from pydantic import Field
from turnrl import EnvSettings, Outcome, Task, TextEnv
from turnrl.envs import Split

SEEDS: dict[str, Sequence[int]] = {"train": range(6), "valid": (6, 7), "test": (8, 9)}


class GuessEnv(TextEnv):
    """Guess the digit that the task's seed picks."""

    instructions = "Guess the number between 0 and 9. Answer with the number."

    class Settings(EnvSettings):
        broken: bool = Field(False, description="every guess pays 7")

    settings: Settings

    def _tasks(self, split: Split) -> list[Task]:
        return [self.task(seed, split) for seed in SEEDS[split]]

    def _begin(self, task: Task) -> Outcome:
        return Outcome("Guess [bold]!", admissible=[str(digit) for digit in range(10)])

    def _act(self, action: str) -> Outcome:
        assert self.current is not None
        won = action == str(self.current.seed)
        reward = 7.0 if self.settings.broken else float(won)
        digits = [str(digit) for digit in range(10)]
        valid = action in digits
        return Outcome(
            "Right!" if won else "No.",
            reward,
            ended=won,
            success=won,
            valid=valid,
            admissible=digits,
        )

    def expert_action(self) -> str | None:
        return str(self.current.seed) if self.current else None


turnrl.register("guess/number-v0", GuessEnv)
