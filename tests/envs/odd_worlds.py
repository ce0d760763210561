"""Worlds that answer in odd types. For ``imports``, like toy_envs."""

from __future__ import annotations

from typing import Any

import numpy as np
from turnrl.envs import EnvSettings, Outcome, Split, Task, TextEnv, register

VALUES: dict[str, Any] = {
    "none": None,
    "bytes": b"text",
    "number": 0.5,
    "list": ["text"],
    "huge": "x" * 1_000_001,
    "text": "text",
    "array": np.ones(3),
    "nan": float("nan"),
    "inf": float("inf"),
    "numbers": [1, 2],
    "str_": np.str_("text"),
    "surrogate": "half \ud83d a pair",
    "float32": np.float32(0.5),
    "float64": np.float64(0.5),
    "int64": np.int64(1),
    "bool": True,
    "bool_": np.bool_(False),
    "int": 0,
    "tuple": ("a", "b"),
}
SPECIAL: dict[str, Any] = {
    "observation number": 7,
    "answer bytes": [b"text"],
    "admissible surrogate": ["\udc00"],
    "answer array": np.array(["a", "b"]),
}


class OddAnswers(TextEnv):
    """Answers reset or step with one field of an odd type, ``how="reward none"`` say."""

    class Settings(EnvSettings):
        how: str = "nothing odd"
        when: str = "step"

    settings: Settings
    instructions = "Wait."

    def _tasks(self, split: Split) -> list[Task]:
        return [self.task({"train": 0, "valid": 1, "test": 2}[split], split)]

    def _begin(self, task: Task) -> Any:
        return self._answer("reset")

    def _act(self, action: str) -> Any:
        return self._answer("step")

    def _answer(self, when: str) -> Any:
        how = self.settings.how
        field, _, kind = how.partition(" ")
        if how == "nothing odd" or self.settings.when != when:
            return Outcome("You wait.")
        if field == "outcome":
            return None if kind == "none" else ("You wait.", 0.0, False)
        if kind == "tensor":
            import torch

            return Outcome("You wait.", reward=torch.tensor(0.5))  # type: ignore[arg-type]
        fields: dict[str, Any] = {"observation": "You wait."}
        return Outcome(**fields | {field: SPECIAL.get(how, VALUES.get(kind))})


class Overrides(OddAnswers):
    """Breaks what the base class fills in, as ``what`` says."""

    class Settings(OddAnswers.Settings):
        what: str = ""

    settings: Settings

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        field, _, kind = self.settings.what.partition(" ")
        if field == "instructions":
            self.instructions = VALUES[kind]
        if field == "tools":
            broken: Any = "text"
            if kind != "text":
                broken = [{"function": {"name": "\ud800", "parameters": {}}}]
            self.tools = broken

    def expert_action(self) -> Any:
        return 7 if self.settings.what == "expert number" else "wait"

    def step(self, action: str) -> Any:
        stepped = super().step(action)
        broken = {
            "step none": None,
            "step short": stepped[:4],
            "step bytes": (b"text", *stepped[1:]),
        }
        return broken.get(self.settings.what, stepped)

    def _info(self, outcome: Outcome, reason: str | None) -> Any:
        info: Any = super()._info(outcome, reason)
        what = self.settings.what
        if what == "info short":
            del info["answer"]
        more = {
            "info none": None,
            "info text": {**info, "score": "high"},
            "info more": {**info, "mine": object()},
        }
        return more.get(what, info)


register("odd/answers-v0", OddAnswers)
register("odd/overrides-v0", Overrides)
