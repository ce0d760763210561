"""Time household games: making, resetting and stepping, beside the stock engine.

    python benchmarks/household.py
    python benchmarks/household.py --games 2 --json
    python benchmarks/household.py --expert --tasks 20

Each type's first training games are made in a temporary cache, one after the other. Both engines
then play the same random admissible commands: stock is TextWorld's PddlEnv with alfworld's
wrappers, ours is the world itself with admissible actions listed. Cold is the first time through a
game, warm the later ones. ``--expert`` counts instead how the expert does on the first tasks of
each type and split, and how its length compares with the planner's; its games stay in the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import turnrl

KINDS = ("place", "light", "clean", "heat", "cool", "two")

STOCK = """
import json, os, sys, time
from textworld import EnvInfos
from textworld.envs import PddlEnv
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler, AlfredInfos
env = AlfredInfos(AlfredDemangler(PddlEnv(EnvInfos(won=True, admissible_commands=True))))
rows, out = [], sys.stdout
for path, commands in json.load(sys.stdin):
    start = time.perf_counter()
    env.load(path)
    loaded = time.perf_counter()
    env.reset()
    reset = time.perf_counter()
    for command in commands:
        env.step(command)
    rows.append([loaded - start, reset - loaded, time.perf_counter() - reset])
print("\\n" + json.dumps(rows), file=out)
"""


def memory_mb() -> float:
    """Measure the resident memory of this process in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def walk(env: Any, task: Any, steps: int) -> list[str]:
    """Choose random admissible commands that do not end the game."""
    rng, actions = random.Random(task.seed), list[str]()
    _, info = env.reset(options={"task": task})
    while len(actions) < steps:
        actions.append(rng.choice(info["admissible_actions"]))
        _, _, ended, _, info = env.step(actions[-1])
        if ended:
            actions = []
            _, info = env.reset(options={"task": task})
    return actions


def timed(env: Any, task: Any, actions: list[str]) -> tuple[float, float]:
    """Measure the seconds of a reset and of the steps after it."""
    start = time.perf_counter()
    env.reset(options={"task": task})
    begun = time.perf_counter()
    for action in actions:
        env.step(action)
    return begun - start, time.perf_counter() - begun


def measure(games: int, steps: int, rounds: int) -> list[dict[str, Any]]:
    """Measure a row per task type."""
    from turnrl.envs.household.games import generated, opened

    rows, orders = [], []
    generated([("light", 10**9)])  # The worker's imports are no part of making a game.
    for kind in KINDS:
        env = turnrl.make(f"household/{kind}-v0")
        tasks = env.tasks("train")[:games]
        made = []
        for task in tasks:
            start = time.perf_counter()
            env.prepare([task], progress=False)
            made.append(time.perf_counter() - start)
        walks = [walk(env, task, steps) for task in tasks]
        opened.cache_clear()
        cold = [timed(env, task, actions) for task, actions in zip(tasks, walks, strict=True)]
        warm = [
            timed(env, task, a) for _ in range(rounds) for task, a in zip(tasks, walks, strict=True)
        ]
        folders = generated([(kind, task.seed) for task in tasks])
        orders += [(str(f / "game.tw-pddl"), a) for f, a in zip(folders, walks, strict=True)]
        rows.append(
            {
                "type": kind,
                "receptacles": statistics.mean(_receptacles(kind, task.seed) for task in tasks),
                "make_s": statistics.mean(made),
                "reset_cold_ms": 1000 * statistics.mean(r for r, _ in cold),
                "reset_warm_ms": 1000 * statistics.mean(r for r, _ in warm),
                "cold": games * steps / sum(s for _, s in cold),
                "warm": rounds * games * steps / sum(s for _, s in warm),
            }
        )
    with tempfile.TemporaryDirectory() as data:
        done = subprocess.run(
            [sys.executable, "-c", STOCK],
            input=json.dumps(orders),
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "ALFWORLD_DATA": data},
        )
    found = json.loads(done.stdout.splitlines()[-1])
    for number, row in enumerate(rows):
        mine = found[number * games : (number + 1) * games]
        row["stock_reset_ms"] = 1000 * statistics.mean(load + reset for load, reset, _ in mine)
        row["stock"] = games * steps / sum(stepping for *_, stepping in mine)
    return rows


def _receptacles(kind: str, seed: int) -> int:
    from turnrl.envs.household.problem import sample

    return len(sample(kind, seed).plan.receptacles)


def per_env(count: int) -> float:
    """Measure the MiB of resident memory per instance in an episode, all in the same game."""
    envs = [turnrl.make("household/heat-v0") for _ in range(count + 1)]
    task = envs[0].tasks("train")[0]
    envs[0].reset(options={"task": task})
    before = memory_mb()
    for env in envs[1:]:
        env.reset(options={"task": task})
        env.step("look")
    return (memory_mb() - before) / count


def experts(tasks: int) -> None:
    """Print a line per type: the expert's play of a split, beside the planner's walkthrough."""
    from turnrl.envs.household.games import generated, opened

    for kind in KINDS:
        env = turnrl.make(f"household/{kind}-v0", extras=())
        chosen = [task for split in ("train", "valid", "test") for task in env.tasks(split)[:tasks]]
        env.prepare(chosen)
        won, lengths, planned = 0, list[int](), list[int]()
        for task in chosen:
            [folder] = generated([(kind, task.seed)])
            planned.append(len(opened(folder / "compiled.json.gz").walkthrough or ()))
            env.reset(options={"task": task})
            lengths.append(0)
            while (action := env.expert_action()) is not None:
                won += env.step(action)[4]["success"]
                lengths[-1] += 1
        pairs = list(zip(lengths, planned, strict=True))
        shorter, equal = sum(a < b for a, b in pairs), sum(a == b for a, b in pairs)
        print(
            f"{kind:6} {len(chosen)} games, {won} won, {statistics.mean(lengths):.2f} steps,"
            f" {max(lengths)} at most; planner {statistics.mean(planned):.2f}; equal {equal},"
            f" shorter {shorter}, longer {len(chosen) - equal - shorter}",
            flush=True,
        )


def main() -> None:
    """Measure what the command line asks for, and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--games", type=int, default=3, help="games per task type")
    parser.add_argument("--steps", type=int, default=20, help="commands per game")
    parser.add_argument("--rounds", type=int, default=5, help="times a game is played warm")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object in place of the table"
    )
    parser.add_argument(
        "--expert", action="store_true", help="the expert beside the planner, nothing else"
    )
    parser.add_argument(
        "--tasks", type=int, default=10, help="with --expert: tasks per type and split"
    )
    args = parser.parse_args()
    load = os.getloadavg()[0]
    if args.expert:
        experts(args.tasks)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        rows = measure(args.games, args.steps, args.rounds)
        memory = per_env(8)
    where = (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, load"
        f" {load:.1f} before"
    )
    if args.json:
        print(json.dumps({"on": where, "rows": rows, "memory_mb_per_env": memory}))
        return
    print(
        f"{args.games} games per type, {args.steps} commands each; {where}; {memory:.1f} MiB per"
        " instance"
    )
    print(
        "type    recs  make s | reset ms cold  warm   stock | steps/s cold   warm  stock "
        " warm/stock"
    )
    for r in rows:
        print(
            f"{r['type']:6} {r['receptacles']:5.1f} {r['make_s']:7.2f} | {r['reset_cold_ms']:13.1f}"
            f" {r['reset_warm_ms']:5.1f} {r['stock_reset_ms']:7.0f} | {r['cold']:12.0f}"
            f" {r['warm']:6.0f} {r['stock']:6.1f} {r['warm'] / r['stock']:11.0f}"
        )


if __name__ == "__main__":
    main()
