"""Time ScienceWorld: Java's start, resets and steps against upstream's class, and memory.

    python benchmarks/science.py
    python benchmarks/science.py --tasks boil grow-plant --rounds 5
    python benchmarks/science.py --gold 1  # how many gold paths win, one variation of each task

Both classes play the same gold path of the same variation in the same run, one after the other and
with the same flags for Java, so that their ratio means something on a busy machine. Upstream's
class lists the valid actions at every step; ours is measured without them and with them. Memory is
what is resident of one Java process at the end.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import time
from typing import Any

import psutil
import turnrl
from turnrl.envs import Task
from turnrl.envs.scienceworld.settings import TASKS, ScienceSettings

ID = "scienceworld/task-v0"
HEAP_MB = ScienceSettings().heap_mb
FLAGS = f"-Xmx{HEAP_MB}m -XX:+UseSerialGC -XX:TieredStopAtLevel=1"
SOME = ("boil", "find-living-thing", "power-component", "grow-plant")


def task(name: str, variation: int) -> Task:
    return Task(env=ID, params={"task": name, "simplification": "easy"}, seed=variation)


def seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def speeds(names: list[str], rounds: int) -> None:
    """Measure resets and steps, and print one line per task."""
    from scienceworld import ScienceWorldEnv as Stock

    os.environ["JAVA_TOOL_OPTIONS"] = FLAGS
    stock = Stock("", envStepLimit=10**6)
    del os.environ["JAVA_TOOL_OPTIONS"]
    plain, full = turnrl.make(ID, extras=()), turnrl.make(ID, extras=("admissible_actions",))
    starts = []
    for _ in range(rounds):
        plain.close()
        starts.append(seconds(lambda: plain.reset(options={"task": task("find-plant", 0)})))
    typical = f"{statistics.median(starts):.2f} s ({min(starts):.2f} to {max(starts):.2f})"
    print(f"first reset, Java's start included: {typical}")
    print(
        f"{'task':22}{'actions':>8}{'reset ms':>10}{'plain /s':>10}{'listing /s':>12}"
        f"{'stock /s':>10}{'ratio':>8}"
    )
    for name in names:
        options = {"task": task(name, 0)}
        plain.reset(options=options)
        path = plain._game.gold()  # type: ignore[attr-defined]
        resets: list[float] = []
        rates: dict[str, list[float]] = {"plain": [], "full": [], "stock": []}
        for _ in range(rounds):
            for label, env in (("plain", plain), ("full", full)):
                resets.append(seconds(lambda env=env, options=options: env.reset(options=options)))
                rates[label].append(_play(path, lambda action, env=env: env.step(action)[2]))
            stock.load(name, 0, "easy", generateGoldPath=False)
            stock.reset()
            rates["stock"].append(_play(path, lambda action: stock.step(action)[2]))
        plain_s, full_s, stock_s = (
            statistics.median(rates[label]) for label in ("plain", "full", "stock")
        )
        ratio = statistics.median(
            a / b for a, b in zip(rates["plain"], rates["stock"], strict=True)
        )
        reset = 1000 * statistics.median(resets)
        print(
            f"{name:22}{len(path):8}{reset:10.0f}{plain_s:10.1f}{full_s:12.1f}{stock_s:10.1f}{ratio:8.1f}"
        )
    for label, env in (("plain", plain), ("listing", full)):
        process = psutil.Process(env._game.java.process.pid)  # type: ignore[attr-defined]
        print(f"Java process, {label}: {process.memory_info().rss / 2**20:.0f} MiB resident")
    mine = psutil.Process()
    (other,) = (
        p for p in mine.children(recursive=True) if p.pid == stock._gateway.java_process.pid
    )
    print(
        f"Java process, stock with -Xmx{HEAP_MB}m: {other.memory_info().rss / 2**20:.0f} MiB"
        " resident"
    )
    for env in (plain, full, stock):
        env.close()


def _play(path: list[str], step: Any) -> float:
    """Measure steps per second along a path, to the end of the episode."""
    start, done = time.perf_counter(), 0
    for action in path:
        done += 1
        if step(action):
            break
    return done / (time.perf_counter() - start)


def gold(count: int, seed: int) -> None:
    """Play the expert on `count` random variations of every task."""
    env = turnrl.make(ID)
    rng, won, played, start = random.Random(seed), 0, 0, time.perf_counter()
    for name in TASKS:
        pool = [
            t
            for split in ("train", "valid", "test")
            for t in turnrl.make(ID, task=name).tasks(split)
        ]
        for chosen in rng.sample(pool, min(count, len(pool))):
            env.reset(options={"task": chosen})
            steps, success = 0, False
            while (action := env.expert_action()) is not None:
                success = env.step(action)[4]["success"]
                steps += 1
            won, played = won + success, played + 1
            print(
                f"{chosen.params['task']}#{chosen.seed}: {steps} steps,"
                f" {'won' if success else 'NOT WON'}",
                flush=True,
            )
    print(f"{won} of {played} gold paths win, {time.perf_counter() - start:.0f} s")
    env.close()


def main() -> None:
    """Measure what the command line asks for, and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(SOME), choices=TASKS, metavar="TASK")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--gold",
        type=int,
        default=0,
        metavar="N",
        help="play N gold paths of each task, nothing else",
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    load = os.getloadavg()[0]
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, load"
        f" {load:.1f} before"
    )
    if args.gold:
        gold(args.gold, args.seed)
    else:
        speeds(args.tasks, args.rounds)


if __name__ == "__main__":
    main()
