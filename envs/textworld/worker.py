"""Makes TextWorld games in a process of its own: one JSON job per line in, one JSON answer per line
out.

It is started by path, as a script, and imports nothing of turnrl, so that a worker pays for
TextWorld's import once and for nothing else::

    {"maker": "tw-coin_collector", "settings": {"level": 5}, "seed": 7, "path": "/cache/tmp/7.z8"}
    {"ok": true, "cpu": 0.62}    or    {"ok": false, "error": "...", "impossible": true}

The files are those of ``tw-make``, except that rule files are read in sorted order. TextWorld
iterates over sets of strings, so the same bytes need the same PYTHONHASHSEED; the parent sets it to
0. Three shortcuts make it faster: rule files are parsed once per worker instead of once per game, a
challenge's walkthrough is followed in the logic instead of in a compiled throw-away game, and
Inform writes no index of the project.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import textworld
import textworld.challenges
from textworld.generator import QuestGenerationError, generate_inform7_source, make_game
from textworld.generator.game import GameOptions, GameProgression
from textworld.generator.inform7 import Inform7Game
from textworld.generator.inform7.world2inform7 import I7_DEFAULT_PATH
from textworld.logic import GameLogic

ATTEMPTS = 16
"""Seeds tried before giving up: some challenges cannot place every quest on every map."""
STRIDE = 104_729
"""Distance between those seeds."""


def sort_rules() -> None:
    """Make games independent of the order in which a file system lists a folder of rule files."""
    load = GameLogic.load.__func__
    GameLogic.load = classmethod(lambda cls, paths: load(cls, sorted(paths)))


def parse_once() -> None:
    """Keep parsed rule files; games never change them."""
    load = GameLogic.load.__func__
    cached = functools.lru_cache(maxsize=None)(lambda paths: load(GameLogic, paths))
    GameLogic.load = classmethod(lambda cls, paths: cached(tuple(paths)))


def follow_in_logic() -> None:
    """Let a GameMaker follow its walkthrough without compiling a game, where that is possible."""
    slow = textworld.GameMaker.set_walkthrough

    def set_walkthrough(maker: Any, commands: list[str]) -> None:
        if not follow(maker, commands):
            slow(maker, commands)

    textworld.GameMaker.set_walkthrough = set_walkthrough


def follow(maker: Any, commands: list[str]) -> bool:
    """Give each win event of a GameMaker the actions that trigger it.

    Returns False if a command has no single action.
    """
    game = maker.build()
    inform7, progress = Inform7Game(game), GameProgression(game, track_quests=True)
    watched = [event for quest in progress.quest_progressions for event in quest.win_events]
    actions: list[Any] = []
    found: dict[Any, tuple[list[Any], list[str]]] = {}
    for count, command in enumerate(commands, start=1):
        possible = progress.valid_actions
        matches = [
            a
            for a, c in zip(possible, inform7.gen_commands_from_actions(possible), strict=True)
            if c == command
        ]
        if len(matches) != 1:
            return False
        before = [event.triggered for event in watched]
        progress.update(matches[0])
        actions.append(matches[0])
        for was, event in zip(before, watched, strict=True):
            if event.triggered and not was:
                found[event.event] = (list(actions), commands[:count])
    # Looked up before any is changed, because an event's hash depends on its actions.
    changes = [
        (event, found[event])
        for quest in maker.quests
        for event in quest.win_events
        if event in found
    ]
    for event, (steps, words) in changes:
        event.actions, event.commands = steps, words
    return True


def options_for(seed: int) -> GameOptions:
    """Make the options that every maker starts from."""
    options = GameOptions()
    options.seeds = seed
    return options


def custom(settings: dict[str, int], options: GameOptions) -> Any:
    """Make the game of ``tw-make custom --world-size --nb-objects --quest-length``.

    Other flags are at their defaults.
    """
    options.nb_rooms, options.nb_objects = settings["rooms"], settings["objects"]
    chaining = options.chaining
    chaining.min_breadth, chaining.max_breadth, chaining.min_depth = 1, 5, 1
    chaining.min_length = chaining.max_length = chaining.max_depth = settings["quest_length"]
    return make_game(options)


def design(maker: str, settings: dict[str, Any], seed: int) -> Any:
    """Make the Game of the seed, or of the next (by STRIDE) whose map has room for the quest."""
    make = custom if maker == "custom" else textworld.challenges.CHALLENGES[maker][1]
    for attempt in range(ATTEMPTS):
        try:
            return make(dict(settings), options_for((seed + attempt * STRIDE) % 2**32))
        except QuestGenerationError:
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def compile_game(game: Any, path: Path) -> None:
    """Write ``path`` (.z8) and the .json beside it, as TextWorld's compile_game does."""
    source = generate_inform7_source(game)
    game.save(str(path.with_suffix(".json")))
    home = Path(os.environ.get("INFORM_HOME", I7_DEFAULT_PATH)) / "share" / "inform7"
    with tempfile.TemporaryDirectory(dir=path.parent) as project:
        (Path(project) / "Source").mkdir()
        (Path(project) / "Build").mkdir()
        (Path(project) / "Source" / "story.ni").write_text(source, encoding="utf-8")
        (Path(project) / "uuid.txt").touch()
        flags = [
            "--internal",
            str(home / "Internal"),
            "--format=.z8",
            "--noindex",
            "--project",
            project,
        ]
        run([str(home / "Compilers" / "ni"), *flags])
        run(
            [
                str(home / "Compilers" / "inform6"),
                "-E2wSv8F0",
                str(Path(project) / "Build" / "auto.inf"),
                str(path),
            ]
        )


def run(command: list[str]) -> None:
    """Run a compiler. Raises RuntimeError with the last line it printed if it fails."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode != 0 or (command[0].endswith("inform6") and not os.path.isfile(command[-1])):
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines() or ["no output"]
        raise RuntimeError(
            f"{Path(command[0]).name} failed with code {done.returncode}: {lines[-1].strip()}"
        )


def spent() -> float:
    """Measure the CPU seconds of this process and its compilers so far."""
    both = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job; whatever goes wrong is told, so that one bad game does not end the worker."""
    start = spent()
    try:
        compile_game(design(job["maker"], job["settings"], job["seed"]), Path(job["path"]))
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        return {"ok": False, "error": text, "impossible": isinstance(error, QuestGenerationError)}
    return {"ok": True, "cpu": spent() - start}


def main() -> None:
    """Serve jobs until the input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # Whatever TextWorld prints must not get between the answers.
    sort_rules()
    parse_once()
    follow_in_logic()
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
