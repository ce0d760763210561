"""register and make: what is no text environment is refused in one sentence of advice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest
import turnrl
from turnrl import UserError


class Plain(gymnasium.Env[int, int]):
    """An environment of numbers."""

    def reset(self, **options: Any) -> tuple[int, dict[str, Any]]:
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        return 0, 0.0, True, False, {}


def sentence(call: Any, *parts: str) -> None:
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_a_plain_gymnasium_environment_is_sent_to_wrap() -> None:
    for plain in (Plain, Plain()):
        sentence(
            lambda plain=plain: turnrl.register("plain/a-v0", plain),
            "Plain",
            "gymnasium.Env",
            "turnrl.wrap",
        )
    turnrl.register("plain/path-v0", "gymnasium.envs.classic_control:CartPoleEnv")
    sentence(lambda: turnrl.make("plain/path-v0"), "CartPoleEnv is a gymnasium.Env", "turnrl.wrap")
    factory: Any = lambda **options: Plain()
    turnrl.register("plain/factory-v0", factory)
    sentence(lambda: turnrl.make("plain/factory-v0"), "Plain is a gymnasium.Env", "turnrl.wrap")
    other: Any = dict
    sentence(lambda: turnrl.register("plain/dict-v0", other), "dict is not a turnrl.TextEnv")


def test_what_leads_nowhere_is_said() -> None:
    for number, (path, part) in enumerate(
        [
            ("no_such_module:World", "no_such_module"),
            ("json:World", "'json:World' is no class"),
            ("json", "module:Class"),
        ]
    ):
        turnrl.register(f"nowhere/a{number}-v0", path)
        sentence(lambda number=number: turnrl.make(f"nowhere/a{number}-v0"), part)


def test_an_id_that_cannot_be_is_said() -> None:
    for wrong in ("two words", "a/b/c-v0", 3):
        sentence(lambda wrong=wrong: turnrl.register(wrong, "x:Y"), "namespace/name-v0")
    sentence(lambda: turnrl.register("CartPole-v1", "x:Y"), "'CartPole-v1' is taken")


BAD_WORLD = """
import turnrl

class Bad(turnrl.TextEnv):
    instructions = "Do it."
    class Settings(turnrl.EnvSettings):
        size: int = 1
    def __init__(self, **more):
        super().__init__(**more)
        if self.settings.size < 1:
            raise ValueError("size must be at least 1")
    def _tasks(self, split):
        seeds = {"train": (1, 2), "valid": (3,), "test": (4,)}[split]
        return [self.task(seed, split) for seed in seeds]
    def _begin(self, task): return turnrl.Outcome("Go.")
    def _act(self, action): return ("Done.", 1.0, True)

turnrl.register("bad/tuple-v0", Bad)
"""


def test_an_answer_of_the_wrong_kind_is_one_failed_rule(tmp_path: Path) -> None:
    (tmp_path / "bad_world.py").write_text(BAD_WORLD)
    report = turnrl.check_env(
        "bad/tuple-v0", imports=[str(tmp_path / "bad_world.py")], tasks=1, report=True
    )
    told = [one for one in report.results if "_act must return an Outcome, not tuple" in one.detail]
    assert [one.status for one in told] == ["failed"]
    assert len(report.failures) == 1
    sentence(lambda: turnrl.make("bad/tuple-v0", size=0), "bad/tuple-v0: size must be at least 1")
