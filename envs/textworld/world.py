"""One running TextWorld game: sends commands, reads what happened, follows the plan.

The z-machine is asked to trace its actions, which is how TextWorld itself follows a game:
``[opening the chest - succeeded]`` appears for what was done, ``[going west - failed ...]`` for
what was refused, and nothing for what the parser did not understand. So one cheap rule tells
whether a command was valid, and the logic (what is possible now, what plan wins) is only consulted
when somebody asks::

    world = GameWorld(path)
    text = world.start()
    reply = world.send("open chest")
    world.possible(), world.plan()
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jericho

from ...foundation.errors import UserError
from .limit import limited
from .logic import LOCK, View, logic_of

_REPORTS = ("tw-extra-infos score", "tw-trace-actions")
"""Sent before the first turn: from then on the game tells its score (and its moves with it) and its
actions.
"""
_HEADER_BYTES, _VERSION, _LENGTH = 64, 8, slice(26, 28)
"""Of a story file: its header, the version of its format, and where it says its length in units of
eight bytes.
"""
_LONGEST = 198
"""Bytes of a command that the interpreter reads."""
_REPORTED = re.compile(r"<(score|moves)>\n(.*?)</\1>", re.DOTALL)
_TRACE = re.compile(r"\[([^\]]+)\]\n?")
_SUCCEEDED = " - succeeded"
_WON, _LOST = "*** The End ***", "*** You lost! ***"
_BANNER = re.compile(r"[\s_|\\/$<>]*")
_STATUS = re.compile(r"^>.*-=.*=-\s*\d+/\d+\s*$|^\s*>\s*$")
_EPILOGUE = re.compile(r"^\s*(You scored \d+ out of|Would you like to RESTART)")


def tidy(text: str) -> str:
    """Strip TextWorld's words of all that is no story.

    That is banner, padding, blank lines, status line, prompt and end-of-game menu.
    """
    lines = text.replace("\r", "").split("\n")
    first = next((i for i, line in enumerate(lines) if not _BANNER.fullmatch(line)), len(lines))
    kept: list[str] = []
    for line in (line.strip() for line in lines[first:]):
        if _EPILOGUE.match(line):
            break
        if line and not _STATUS.match(line):
            kept.append(line)
    return "\n".join(kept)


def check_story(path: Path) -> None:
    """Raise UserError for a file that the interpreter cannot read: it would end the process."""
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or header[0] != _VERSION:
        raise UserError(f"{path} is no game of TextWorld: a .z8 file is needed")
    said = _VERSION * int.from_bytes(header[_LENGTH])
    if path.stat().st_size < said:
        raise UserError(f"{path} is damaged: it has {path.stat().st_size} of its {said} bytes")


@dataclass(frozen=True)
class GameReply:
    """The answer of a game to a command."""

    text: str
    understood: bool
    """True if the game carried out an action: it was understood, possible, and did not fail."""
    score: int
    won: bool
    lost: bool


class GameWorld:
    """A loaded game. Not for use by two threads at once. `close` frees the interpreter.

    Args:
        path: the .z8, with its .json beside it.

    Raises UserError for a file that is no whole game: the interpreter would end the process over
    it.
    """

    def __init__(self, path: Path) -> None:
        check_story(path)
        with LOCK:
            self._machine: Any = jericho.FrotzEnv(str(path), -1)
        self._enter(path)

    def load(self, path: Path) -> None:
        """Play another game, which is cheaper than making another instance."""
        check_story(path)
        self._machine.close()
        self._machine._cache.clear()  # it would keep a copy of every game it ever ran
        self._machine.load(str(path), -1)
        self._enter(path)

    def _enter(self, path: Path) -> None:
        self.path = path
        self._logic = logic_of(path)
        self.max_score: int = self._logic.game.max_score
        self._begun = False

    def start(self) -> str:
        """Start the game, or start it again, and return the opening text.

        The objective is in it where the game has one.

        The interpreter is set up anew. Putting its memory back (`FrotzEnv.set_state`) is two
        milliseconds cheaper and leaves its windows, cursors and buffers as they were; cooking games
        played on like that hung now and then.
        """
        if self._machine._emulator_halted():
            with LOCK:
                self._machine = jericho.FrotzEnv(str(self.path), -1)
            self._begun = False
        # One that has just loaded the game has said the opening already.
        with limited(self._machine, f"the game {self.path.name} did not begin"):
            if self._begun:
                self._machine.reset()
            text = self._machine.frotz_lib.get_narrative_text().decode("cp1252")
            self._begun = True
            for command in _REPORTS:
                self._machine.step(command)
        self._view: View | None = None
        self._events: list[str] = []
        self._followed = self._score = 0
        return tidy(text)

    def send(self, command: str) -> GameReply:
        """Run one command, which must hold no brackets (they would read as a trace).

        Raises StuckError if the game does not finish it. `start` may be called again.
        """
        # The interpreter cuts there, through the middle of a character.
        command = command.strip().encode()[:_LONGEST].decode(errors="ignore")
        with limited(self._machine, f"the game {self.path.name} did not finish '{command}'"):
            raw: str = self._machine.step(command)[0]
        for name, number in _REPORTED.findall(raw):
            if name == "score":
                self._score = int(_TRACE.sub("", number).split()[0])
        raw = _REPORTED.sub("", raw)
        done = [tag[: tag.index(_SUCCEEDED)] for tag in _TRACE.findall(raw) if _SUCCEEDED in tag]
        # Actions within actions are numbered, '(1) taking the key': the outer one says it all.
        outer = [event for event in done if "(" not in event and ")" not in event]
        self._events += outer
        feedback = _TRACE.sub("", raw)
        return GameReply(
            tidy(feedback), bool(outer), self._score, _WON in feedback, _LOST in feedback
        )

    def possible(self) -> list[str]:
        """List every command that has an effect or shows something now, sorted, each once."""
        with LOCK:
            return list(self._logic.commands(self._follow(plan=False)))

    def plan(self) -> list[str]:
        """Find commands that win from here; none if the game is over or TextWorld knows no way."""
        with LOCK:
            return list(self._logic.plan(self._follow(plan=True)))

    def close(self) -> None:
        """Free the game's interpreter; the object is of no use afterwards."""
        self._machine.close()

    def _follow(self, *, plan: bool) -> View:
        """Return the logic's view after all events so far.

        A view with plans starts from the first event.
        """
        view = self._view
        if view is None or (plan and view.quests is None):
            view, self._followed = self._logic.opening_view(plan=plan), 0
        for event in self._events[self._followed :]:
            view = self._logic.after(view, event)
        self._view, self._followed = view, len(self._events)
        return view
