"""One running TextWorld game: sends commands, reads what happened, follows the plan.

The z-machine is asked to trace its actions, which is how TextWorld itself follows a game: ``[opening the chest -
succeeded]`` appears for what was done, ``[going west - failed ...]`` for what was refused, and nothing for what the
parser did not understand. So one cheap rule tells whether a command was valid, and the logic (what is possible now,
what plan wins) is only consulted when somebody asks::

    world = World(path); text = world.start(); reply = world.send("open chest"); world.possible(); world.plan()
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import textworld
from textworld.generator.game import GameProgression
from textworld.generator.inform7 import Inform7Game

_LOGIC = threading.Lock()
"""TextWorld reads logic with one parser per process, which two threads must not use at once."""
_TRACE = re.compile(r"\[([^\]]+)\]\n?")
_SUCCEEDED = " - succeeded"
_WON, _LOST = "*** The End ***", "*** You lost! ***"
_BANNER = re.compile(r"[\s_|\\/$<>]*")
_STATUS = re.compile(r"^>.*-=.*=-\s*\d+/\d+\s*$|^\s*>\s*$")
_EPILOGUE = re.compile(r"^\s*(You scored \d+ out of|Would you like to RESTART)")


def tidy(text: str) -> str:
    """TextWorld's words without banner, padding, blank lines, status line, prompt and end-of-game menu."""
    lines = text.replace("\r", "").split("\n")
    first = next((i for i, line in enumerate(lines) if not _BANNER.fullmatch(line)), len(lines))
    kept: list[str] = []
    for line in (line.strip() for line in lines[first:]):
        if _EPILOGUE.match(line):
            break
        if line and not _STATUS.match(line):
            kept.append(line)
    return "\n".join(kept)


@dataclass(frozen=True)
class Reply:
    """What a command did."""

    text: str
    understood: bool
    """True if the game carried out an action: it was understood, possible, and did not fail."""
    score: int
    won: bool
    lost: bool


class World:
    """A loaded game. Not for use by two threads at once. `close` frees the interpreter.

    Args:
        path: the .z8, with its .json beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _LOGIC:
            self._env: Any = textworld.start(str(path), textworld.EnvInfos())
        self._logic: GameProgression | None = None
        self._inform7: Any = None
        self._events: list[str] = []
        self._followed = 0

    def start(self) -> str:
        """(Re)start the game and return the opening text, objective included where the game has one."""
        with _LOGIC:
            state = self._env.reset()
        self._game = state.game
        self.max_score: int = state.max_score
        # Its answer is dropped; from here on the game reports actions.
        self._env.unwrapped._send("tw-trace-actions")
        self._events, self._followed, self._logic = [], 0, None
        return tidy(state.feedback)

    def send(self, command: str) -> Reply:
        """Run one command, which must hold no brackets (they would read as a trace)."""
        state, _, _ = self._env.step(command)
        traced = _TRACE.findall(state.feedback)
        done = [tag[: tag.index(_SUCCEEDED)] for tag in traced if _SUCCEEDED in tag]
        # Actions within actions are numbered, '(1) taking the key': the outer one says it all.
        outer = [event for event in done if "(" not in event and ")" not in event]
        self._events += outer
        feedback = _TRACE.sub("", state.feedback)
        return Reply(tidy(feedback), bool(outer), int(state.score or 0), _WON in feedback, _LOST in feedback)

    def possible(self) -> list[str]:
        """Every command that has an effect or shows something now, sorted, each once."""
        with _LOGIC:
            logic = self._follow(plan=False)
            return sorted(set(self._inform7.gen_commands_from_actions(logic.valid_actions)))

    def plan(self) -> list[str]:
        """Commands that win from here; empty if the game is over or TextWorld knows no way."""
        with _LOGIC:
            actions = self._follow(plan=True).winning_policy
            return list(self._inform7.gen_commands_from_actions(actions)) if actions else []

    def close(self) -> None:
        """Free the interpreter; the object is of no use afterwards."""
        self._env.close()

    def _follow(self, *, plan: bool) -> GameProgression:
        """The logic's state after all events so far. Plans need more bookkeeping and start from the first event."""
        if self._logic is None or (plan and not self._logic.tracking_quests):
            if self._inform7 is None:
                self._inform7 = Inform7Game(self._game)
            self._logic, self._followed = GameProgression(self._game, track_quests=plan), 0
        for event in self._events[self._followed :]:
            action = self._inform7.detect_action(event, self._logic.valid_actions)
            if action is not None:
                self._logic.update(action)
        self._followed = len(self._events)
        return self._logic
