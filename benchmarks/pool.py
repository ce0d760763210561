"""Steps per second of the environment pool, against the plain loop in one process.

    python benchmarks/pool.py --backend process --episodes 64
    python benchmarks/pool.py --backend all --json

Plays TextWorld games with admissible commands listed at every step, choosing among them with one
seeded generator per episode, so every backend plays the same steps (a digest of all observations
says so). Game files are made before the clock starts, worker processes and instances are warmed up
by one short round. CPU seconds count this process and its workers. ``--env toy`` measures a loop of
0.8 ms in place of a game.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import random
import resource
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import turnrl
from turnrl.envs import Outcome, Split, Task, TextEnv, make_for
from turnrl.envs.pool.pool import EnvPool


class BusyEnv(TextEnv):
    """Computes 0.8 ms per step."""

    def _tasks(self, split: Split) -> list[Task]:
        return [self.task(seed, split) for seed in range(64)]

    def _begin(self, task: Task) -> Outcome:
        return Outcome("begin", admissible=["a", "b"])

    def _act(self, action: str) -> Outcome:
        end = time.perf_counter() + 0.0008
        while time.perf_counter() < end:
            pass
        return Outcome(f"You did {action}.", admissible=["a", "b"])


turnrl.register("bench/busy-v0", BusyEnv)


@dataclass
class Result:
    """One line of the table."""

    backend: str
    workers: int
    episodes: int
    steps: int
    steps_per_second: float
    cpu_ms_per_step: float
    digest: str
    ratio: float = 1.0
    """Steps per second over those of the loop."""


def cpu_seconds(pids: list[int]) -> float:
    """Measure the CPU seconds of this process and the live processes `pids`."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    total = own.ru_utime + own.ru_stime
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def children() -> list[int]:
    """List the live direct child processes."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == os.getpid():
            found.append(int(stat.parent.name))
    return found


def digest(texts: list[str]) -> str:
    """Compute a fingerprint of what was seen."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def loop(tasks: list[Task], turns: int) -> list[str]:
    """Play one episode after the other with one instance, and return all observations."""
    seen: list[list[str]] = []
    env: TextEnv | None = None
    for number, task in enumerate(tasks):
        rng = random.Random(number)
        env = env or make_for(task)
        observation, info = env.reset(options={"task": task})
        texts = [observation]
        for _ in range(turns):
            observation, _, terminated, truncated, info = env.step(
                rng.choice(info["admissible_actions"] or ["look"])
            )
            texts.append(observation)
            if terminated or truncated:
                observation, info = env.reset(options={"task": task})
        seen.append(texts)
    return [text for texts in seen for text in texts]


async def play(pool: EnvPool, number: int, task: Task, turns: int) -> list[str]:
    """Play one episode of exactly `turns` steps; it starts again where it ends."""
    rng = random.Random(number)
    async with pool.episode(task) as session:
        observation, info = await session.reset()
        texts = [observation]
        for _ in range(turns):
            action = rng.choice(info["admissible_actions"] or ["look"])
            observation, _, terminated, truncated, info = await session.step(action)
            texts.append(observation)
            if terminated or truncated:
                observation, info = await session.reset()
        return texts


async def pooled(backend: Any, workers: int | None, tasks: list[Task], turns: int) -> Result:
    """Play all episodes at once through a pool."""
    options: Any = {"imports": [os.path.abspath(__file__)]} if backend == "process" else {}
    async with EnvPool(backend=backend, workers=workers, slots=len(tasks), **options) as pool:
        await asyncio.gather(*[play(pool, number, task, 3) for number, task in enumerate(tasks)])
        pids = children()
        cpu, start = cpu_seconds(pids), time.perf_counter()
        seen = await asyncio.gather(
            *[play(pool, number, task, turns) for number, task in enumerate(tasks)]
        )
        wall, cpu = time.perf_counter() - start, cpu_seconds(pids) - cpu
    steps = turns * len(tasks)
    used = len(pids) if backend == "process" else workers or 0
    return Result(
        backend,
        used,
        len(tasks),
        steps,
        steps / wall,
        1000 * cpu / steps,
        digest([t for e in seen for t in e]),
    )


def measure(
    backends: list[str], workers: int | None, tasks: list[Task], turns: int
) -> list[Result]:
    """Measure the loop first, then the backends."""
    loop(tasks[:4], 3)
    cpu, start = cpu_seconds([]), time.perf_counter()
    seen = loop(tasks, turns)
    wall, cpu = time.perf_counter() - start, cpu_seconds([]) - cpu
    steps = turns * len(tasks)
    results = [Result("loop", 0, 1, steps, steps / wall, 1000 * cpu / steps, digest(seen))]
    for backend in backends:
        results.append(asyncio.run(pooled(backend, workers, tasks, turns)))
        results[-1].ratio = results[-1].steps_per_second / results[0].steps_per_second
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="textworld/coin-v0", help="a registered id, or 'toy'")
    parser.add_argument("--backend", default="process", choices=["thread", "process", "all"])
    parser.add_argument(
        "--workers", type=int, help="threads or processes (default: the pool's own)"
    )
    parser.add_argument("--episodes", type=int, default=64, help="concurrent episodes")
    parser.add_argument("--turns", type=int, default=50, help="steps per episode")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object in place of the table"
    )
    args = parser.parse_args()
    backends = ["thread", "process"] if args.backend == "all" else [args.backend]
    env = turnrl.make("bench/busy-v0" if args.env == "toy" else args.env)
    all_tasks = list(env.tasks("train")[: args.episodes])
    tasks = [all_tasks[i % len(all_tasks)] for i in range(args.episodes)]
    env.prepare(all_tasks, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # games may write files
        results = measure(backends, args.workers, tasks, args.turns)
        os.chdir("/")
    where = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    if args.json:
        json.dump(
            {
                "env": tasks[0].family,
                "on": where,
                "results": [asdict(result) for result in results],
            },
            sys.stdout,
        )
        print()
        return
    print(
        f"{tasks[0].family}, {args.episodes} episodes of {args.turns} steps, {where}, load"
        f" {os.getloadavg()[0]:.1f}"
    )
    print(
        f"{'backend':10}{'workers':>8}{'steps/s':>10}{'ratio':>8}{'CPU ms/step':>13}  observations"
    )
    for r in results:
        speed = f"{r.steps_per_second:>10.0f}{r.ratio:>8.2f}{r.cpu_ms_per_step:>13.2f}"
        print(f"{r.backend:10}{r.workers:>8}{speed}  {r.digest}")


if __name__ == "__main__":
    main()
