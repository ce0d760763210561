"""Time worlds: episodes and steps per second, resets and memory, at 1, 16 and 64 at once.

    python benchmarks/worlds.py --families coin webshop --workers 2

Random play through the pool with worker processes, admissible actions listed at every step. Games,
shops and indexes are made before the clock starts, and every instance has played an episode. Resets
are timed one after the other; an instance that holds the game already is taken where there is one.
Memory is what worker processes do not share. Prints the table of docs/environments/README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from dataclasses import dataclass

import psutil
from families import add_choice, prepared
from turnrl import Task
from turnrl.agents.baselines import RandomAgent
from turnrl.agents.play import EpisodeJob, play_many
from turnrl.envs.pool.pool import EnvPool


@dataclass
class Cost:
    """One cell of the table."""

    concurrent: int
    episodes_per_second: float
    steps_per_second: float
    reset_ms: float
    """Median, with so many others playing."""
    memory_mb: float
    """Of all worker processes."""


async def measure(
    tasks: list[Task], concurrent: int, workers: int, seconds: float, turns: int
) -> Cost:
    """Measure worlds at once: each instance warms up, then whole rounds until the time is over."""
    async with EnvPool(
        backend="process",
        workers=min(workers, concurrent),
        slots=concurrent,
        recycle_episodes=1_000_000,
        max_memory_mb=None,
        options={"extras": ("admissible_actions",)},
    ) as pool:

        async def play(rounds: int) -> int:
            jobs = [
                EpisodeJob(tasks[i % len(tasks)], f"{rounds}:{i}", 0) for i in range(concurrent)
            ]
            episodes, stats = await play_many(
                RandomAgent(), jobs, pool, max_turns=turns, concurrency=concurrent
            )
            assert not stats.lost, stats.lost
            return sum(len(episode.turns) for episode in episodes)

        await play(0)
        resets: list[float] = []

        async def reset(task: Task) -> None:
            async with pool.episode(task) as session:
                started = time.perf_counter()
                await session.reset()
                resets.append(time.perf_counter() - started)

        for i in range(
            max(8, min(64, concurrent))
        ):  # one after the other: what a reset takes by itself
            await reset(tasks[i % len(tasks)])
        started, rounds, steps = time.perf_counter(), 0, 0
        while time.perf_counter() - started < seconds:
            rounds += 1
            steps += await play(rounds)
        elapsed = time.perf_counter() - started
        memory = (
            sum(_private(process) for process in psutil.Process().children(recursive=True)) / 2**20
        )
    return Cost(
        concurrent,
        rounds * concurrent / elapsed,
        steps / elapsed,
        1000 * statistics.median(resets),
        memory,
    )


def _private(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().uss)
    except psutil.NoSuchProcess:
        return 0


def main() -> None:
    """Measure every chosen family, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_choice(parser)
    parser.add_argument("--concurrent", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement, about")
    parser.add_argument("--tasks", type=int, default=16, help="different ones")
    parser.add_argument("--turns", type=int, default=20)
    args = parser.parse_args()
    print(
        "| family | concurrent | episodes/s | steps/s | reset, ms | memory, MiB | MiB per further"
        " instance |"
    )
    print("|---|---|---|---|---|---|---|")
    for family in args.families:
        tasks, missing = prepared(family, args.tasks)
        if missing:
            print(f"| {family} | not played: {missing} |", flush=True)
            continue
        last: Cost | None = None
        for concurrent in args.concurrent:
            cost = asyncio.run(measure(tasks, concurrent, args.workers, args.seconds, args.turns))
            each = ""
            if last is not None and last.concurrent >= args.workers:  # as many processes as now
                each = f"{(cost.memory_mb - last.memory_mb) / (concurrent - last.concurrent):.1f}"
            last = cost
            print(
                f"| {family} | {concurrent} | {cost.episodes_per_second:.1f} |"
                f" {cost.steps_per_second:,.0f} | {cost.reset_ms:.1f} | {cost.memory_mb:.0f} |"
                f" {each} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
