"""A world that a very small model learns in seconds, importable by path: name the light.

Each turn shows one of four colours; the right answer is its name, a wrong colour loses. Registers
itself when imported.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from turnrl.envs import EnvSettings, Outcome, Split, Task, TextEnv, register

COLOURS = ("red", "blue", "green", "white")
SEEDS: dict[str, range] = {"train": range(40), "valid": range(40, 52), "test": range(52, 64)}


class LightsSettings(EnvSettings):
    """What was asked for stands in Tasks, at its default too."""

    length: int = Field(3, ge=1, description="lights in a row")
    forgiving: bool = Field(False, description="a wrong colour does not end it")

    def params(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)


class FaultySettings(LightsSettings):
    fault: Literal["raise", "hang", "reset"] = Field(
        "raise", description="what goes wrong, or where"
    )
    broken: list[int] = Field([], description="seeds of tasks that fail")
    once: list[int] = Field([], description="seeds of tasks that fail the first time only")


class LightsEnv(TextEnv):
    """`length` lights by the seed; a wrong colour ends it without success, unless `forgiving`."""

    Settings = LightsSettings
    settings: LightsSettings
    instructions = "Say the colour of the light: red, blue, green or white."
    symmetries = ({"red": "blue", "blue": "red"},)

    def _tasks(self, split: Split) -> list[Task]:
        return [self.task(seed, split) for seed in SEEDS[split]]

    def _begin(self, task: Task) -> Outcome:
        self.length = self.settings.of_task(task).length
        rng = random.Random(task.seed)
        self.lights = [rng.choice(COLOURS) for _ in range(self.length)]
        self.passed = 0
        return self._look()

    def _act(self, action: str) -> Outcome:
        if action not in COLOURS:
            return self._look(valid=False)
        if action != self.lights[self.passed]:
            if self.settings.forgiving:
                return self._look()
            return Outcome("Dark.", ended=True, admissible=[], progress=self.passed / self.length)
        self.passed += 1
        return self._look()

    def expert_action(self) -> str | None:
        return self.lights[self.passed]

    def _look(self, valid: bool = True) -> Outcome:
        done = self.passed == self.length
        return Outcome(
            "Done." if done else f"Now {self.lights[self.passed]}",
            reward=float(done),
            ended=done,
            success=done,
            valid=valid,
            admissible=[] if done else list(COLOURS),
            score=float(self.passed),
            progress=self.passed / self.length,
        )


class SlowLightsEnv(LightsEnv):
    """Takes a random time per step, from a stream of its own."""

    def _act(self, action: str) -> Outcome:
        time.sleep(random.SystemRandom().random() * 0.004)
        return super()._act(action)


class FaultyLightsEnv(LightsEnv):
    """Tasks with a seed in `broken` raise at their first step (`fault`: 'hang', or 'reset').

    Those in `once` do so only the first time.
    """

    Settings = FaultySettings
    settings: FaultySettings
    attempts: dict[str, int] = {}  # noqa: RUF012

    def _begin(self, task: Task) -> Outcome:
        if self.settings.fault == "reset" and task.seed in self.settings.broken:
            raise ValueError("no lamp")
        return super()._begin(task)

    def _act(self, action: str) -> Outcome:
        assert self.current is not None
        settings, seed = self.settings, self.current.seed
        tried = self.attempts[self.current.id] = self.attempts.get(self.current.id, 0) + 1
        if seed in settings.broken or (seed in settings.once and tried == 1):
            if settings.fault == "hang":
                time.sleep(0.6)
            raise ValueError("the lamp burst")
        return super()._act(action)


class SilentLightsEnv(LightsEnv):
    """Does not say what can be done."""

    def _look(self, valid: bool = True) -> Outcome:
        return replace(super()._look(valid), admissible=None)


class SecretLightsEnv(SilentLightsEnv):
    """Does not say what to do either."""

    def expert_action(self) -> str | None:
        return None


class LyingLightsEnv(LightsEnv):
    """Ends with a full score and full reward, but not with success."""

    def _act(self, action: str) -> Outcome:
        outcome = super()._act(action)
        return Outcome(
            "Over.",
            reward=1.0,
            ended=True,
            success=False,
            score=100.0,
            admissible=[],
            valid=outcome.valid,
        )


WORLDS: dict[str, type[TextEnv]] = {
    "toy/lights-v0": LightsEnv,
    "toy/slow_lights-v0": SlowLightsEnv,
    "toy/faulty_lights-v0": FaultyLightsEnv,
    "toy/silent_lights-v0": SilentLightsEnv,
    "toy/secret_lights-v0": SecretLightsEnv,
    "toy/lying_lights-v0": LyingLightsEnv,
}
for _name, _cls in WORLDS.items():
    register(_name, _cls)

TEXTS = [
    LightsEnv.instructions,
    *(f"Now {colour}\n{colour}\nDone.\nDark." for colour in COLOURS * 4),
]
"""What the world says: text for a tokenizer."""


def recipe(**changes: Any) -> dict[str, Any]:
    """A recipe of seconds. `changes` by block; 'sft' and 'rl' are its stages."""
    sft: dict[str, Any] = {
        "name": "sft",
        "demonstrations": 4,
        "epochs": 12,
        "batch": 4,
        "observation_weight": 0.3,
        "validate_every": 6,
        "validation": 3,
        "optim": {"lr": 0.01},
    }
    rl: dict[str, Any] = {
        "name": "rl",
        "steps": 4,
        "tasks_per_step": 4,
        "group_size": 4,
        "optim": {"lr": 0.005},
        "checkpoint_every": 1,
        "episodes_every": 2,
        "save_episodes": 4,
    }
    data: dict[str, Any] = {
        "name": "toy",
        "env": {"id": "toy/lights-v0", "length": 3, "forgiving": False},
        "model": {
            "layers": 1,
            "width": 32,
            "heads": 2,
            "vocabulary": 320,
            "max_context": 128,
            "init_std": 0.15,
        },
        "agent": {"max_turns": 4, "system": False, "sampling": {"max_tokens": 3}},
        "stages": [sft | changes.pop("sft", {}), rl | changes.pop("rl", {})],
    }
    return data | changes


def records(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


def episodes_won(outcomes: Sequence[dict[str, Any]], last: int) -> float:
    """Mean success as played over the last steps of training."""
    rates: list[float] = [
        line["success"] for line in outcomes if line["kind"] == "train" and line["stage"] == "rl"
    ]
    return sum(rates[-last:]) / last
