"""A process that makes and compiles games: one JSON job per line in, one JSON answer per line out::

    {"make": {"kind": "heat", "seed": 7}, "folder": "7"}
    {"compile": "game.tw-pddl", "out": "compiled.json.gz"}
    {"ok": true, "seconds": 0.41}            or            {"ok": false, "error": "..."}

Everything that must not happen in a process that plays happens here: the translator's changes to
``sys.argv`` and ``sys.stdout``, and the planner, which runs once per generated game. It ends when
its input ends or after `IDLE_SECONDS` without a job.
"""

from __future__ import annotations

import gzip
import json
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

IDLE_SECONDS = 30
ATTEMPTS = 8
"""Problems tried for one seed before giving up."""


def write_game(env: Any, job: dict[str, Any], folder: Path) -> None:
    """Write the three files of a generated game."""
    from .compiled import compile_game
    from .problem import sample

    for attempt in range(ATTEMPTS):
        problem = sample(job["kind"], job["seed"], attempt)
        game = problem.game()
        compiled = compile_game(env, game, plan=True)
        if compiled["walkthrough"]:
            break
    else:
        raise RuntimeError(f"the planner finds no way to win any of {ATTEMPTS} problems")
    folder.mkdir(parents=True)
    (folder / "game.tw-pddl").write_text(
        json.dumps(game | {"walkthrough": compiled["walkthrough"]}), "utf-8"
    )
    (folder / "traj_data.json").write_text(json.dumps(problem.trajectory()), "utf-8")
    write_compiled(folder / "compiled.json.gz", compiled)


def write_compiled(path: Path, compiled: dict[str, Any]) -> None:
    """Write compiled data to a file; the same data is the same bytes."""
    path.write_bytes(
        gzip.compress(json.dumps(compiled, sort_keys=True).encode(), compresslevel=6, mtime=0)
    )


def answer(env: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Do one job; whatever goes wrong is told, so that one bad game does not end the worker."""
    from .compiled import compile_game

    start = time.perf_counter()
    try:
        if "make" in job:
            write_game(env, job["make"], Path(job["folder"]))
        else:
            game = json.loads(Path(job["compile"]).read_text("utf-8"))
            write_compiled(Path(job["out"]), compile_game(env, game, plan=False))
    except Exception as error:
        return {"ok": False, "error": " ".join(str(error).split())[:500] or type(error).__name__}
    return {"ok": True, "seconds": time.perf_counter() - start}


def main() -> None:
    """Serve jobs until the input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # Whatever the translator or the planner print must not get between the answers.
    from textworld.envs.pddl import PddlEnv

    env = PddlEnv()
    while select.select([sys.stdin], [], [], IDLE_SECONDS)[0] and (line := sys.stdin.readline()):
        print(json.dumps(answer(env, json.loads(line))), file=replies, flush=True)
