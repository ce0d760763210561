"""Hostile words of worlds, model folders and parameters reach the terminal as text."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from turnrl.cli import main

COMMANDS = "\x1b]0;owned\x07\x1b[2J\x9b31m\x1b]52;c;b3duZWQ=\x1b\\\u202e\r\b\u2028"
WORLD = f"""
from turnrl import EnvSettings, Outcome, TextEnv, register

COMMANDS = {COMMANDS!r}

class Hostile(TextEnv):
    instructions = "Say " + COMMANDS + "something."

    class Settings(EnvSettings):
        word: str = "a" + COMMANDS
        fails: bool = False

        def params(self):
            return self.model_dump()

    def _tasks(self, split):
        return [self.task({{"train": 0, "valid": 1, "test": 2}}[split], split)]

    def _begin(self, task):
        return Outcome("Here " + COMMANDS + "you are.", admissible=["go " + COMMANDS + "on"])

    def _act(self, action):
        if self.settings.fails:
            raise ValueError("broken " + COMMANDS + "here")
        return Outcome("Well " + COMMANDS + "done.", 1.0, ended=True, success=True, admissible=[])

    def expert_action(self):
        return "go on"

register("hostile/world-v0", Hostile)
"""


@pytest.fixture
def world(tmp_path: Path) -> str:
    path = tmp_path / "hostile_world.py"
    path.write_text(WORLD, "utf-8")
    return str(path)


def commanding(text: str) -> list[str]:
    return [
        c
        for c in text
        if (unicodedata.category(c) in ("Cc", "Zl", "Zp") and c not in "\n\t") or c == "\u202e"
    ]


@pytest.mark.parametrize(
    "command",
    [
        ["play", "hostile/world-v0", "--agent", "expert"],
        ["play", "hostile/world-v0", "--agent", "random"],
        ["play", "hostile/world-v0", "fails=true", "--agent", "expert"],
        ["play", "hostile/world-v0", "--agent", f"no{COMMANDS}body"],
        ["envs", "hostile/world-v0"],
        ["envs"],
        ["check", "hostile/world-v0"],
        ["eval", "hostile/world-v0", "--agent", "expert", "--tasks", "1"],
        ["eval", "hostile/world-v0", "fails=true", "--agent", "expert", "--tasks", "1"],
        ["envs", f"hostile/{COMMANDS}"],
        ["play", "hostile/world-v0", f"w{COMMANDS}=1"],
        ["methods", COMMANDS],
        ["train", f"{COMMANDS}.yaml"],
        ["report", COMMANDS],
    ],
    ids=lambda command: ascii(" ".join(command))[1:60],
)
def test_no_command_lets_a_text_command_the_terminal(
    command: list[str], world: str, capsys: pytest.CaptureFixture[str]
) -> None:
    imports = [] if command[0] in ("methods", "train", "report") else ["--import", world]
    main.run([*command, *imports])
    out, err = capsys.readouterr()
    assert out or err
    assert not commanding(out), ascii(out)
    assert not commanding(err), ascii(err)


@pytest.mark.parametrize("command", ["envs", "check"])
def test_json_says_it_and_commands_nothing(
    command: str, world: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main.run([command, "hostile/world-v0", "--import", world, "--json"])
    out, _ = capsys.readouterr()
    assert not commanding(out)
    data = json.loads(out)
    if command == "envs":
        assert data["instructions"] == f"Say {COMMANDS}something."
