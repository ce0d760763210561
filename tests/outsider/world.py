"""A world in one file: press the button whose lamp is lit."""

from __future__ import annotations

import random
from collections.abc import Sequence

from turnrl import Outcome, Task, TextEnv, register
from turnrl.envs import Split

FIRST = {"train": 0, "valid": 1_000, "test": 2_000}
BUTTONS = ("red", "green", "blue")


class LampsEnv(TextEnv):
    """Eight lamps, one after the other."""

    instructions = "Answer with the colour that is lit: red, green or blue."

    def _tasks(self, split: Split) -> Sequence[Task]:
        return self.seeded(range(FIRST[split], FIRST[split] + 50), split)

    def _begin(self, task: Task) -> Outcome:
        rng = random.Random(task.seed)
        self.lit = [rng.choice(BUTTONS) for _ in range(8)]
        return self._said()

    def _act(self, action: str) -> Outcome:
        if action != self.lit.pop(0):
            return Outcome("The lamps go out.", valid=action in BUTTONS, ended=True)
        if not self.lit:
            return Outcome("All lamps were lit.", reward=1.0, ended=True, success=True)
        return self._said()

    def expert_action(self) -> str | None:
        return self.lit[0] if self.lit else None

    def _said(self) -> Outcome:
        return Outcome(f"The {self.lit[0]} lamp is lit.", admissible=list(BUTTONS))


register("outsider/lamps-v0", LampsEnv)
