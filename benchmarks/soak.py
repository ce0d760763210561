"""Play thousands of random episodes in every world while worker processes are killed.

    python benchmarks/soak.py --families coin webshop --episodes 2000

After one episode in a hundred a worker process is killed, with all that it plays. Every episode
must end with a reason, those that were lost must be counted as lost, memory must stay flat, and no
process and no file may remain; the exit status is 1 where that does not hold. Failed episodes are
not played again here. Prints the table of docs/results.md.

    python benchmarks/soak.py --backend thread --families cooking --episodes 1000 --tasks 12

plays in threads of this process instead, where nothing is killed and no episode may be lost:
instances are used again and again, and one that hangs is seen.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil
from families import add_choice, prepared
from turnrl import Episode, StopReason, Task
from turnrl.agents.baselines import RandomAgent
from turnrl.agents.play import EpisodeJob, play_many
from turnrl.envs.pool.pool import EnvPool

GROWTH = 1.3
"""Memory in the last quarter of the episodes, against that in the first: more is no longer flat."""
SLACK_MB = 100
"""Growth below that is noise."""
SETTLED = 1000
"""With fewer episodes than this, memory is what workers are still loading, and is not judged."""


@dataclass
class Soak:
    """The counts of one family of worlds."""

    family: str
    episodes: int = 0
    kills: int = 0
    stops: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    """As the player of many counted them."""
    memory_mb: list[float] = field(default_factory=list)
    """Of this process and the worker processes, the median of each quarter: after a kill there is
    one worker less.
    """
    seconds: float = 0.0
    processes_left: int = 0
    files_left: int = 0

    @property
    def faults(self) -> list[str]:
        """List what was promised and does not hold."""
        failed = sum(count for stop, count in self.stops.items() if StopReason(stop).failed)
        found = []
        if sum(self.stops.values()) != self.episodes:
            found.append(f"{self.episodes - sum(self.stops.values())} episodes have no end")
        if failed != self.lost:
            found.append(f"{failed} episodes failed and {self.lost} are counted as lost")
        if not self.kills and failed:
            found.append(f"nothing was killed and {failed} episodes failed")
        if self.kills and not failed:
            found.append("workers were killed and no episode was lost")
        first, last = self.memory_mb[0], self.memory_mb[-1]
        if self.episodes >= SETTLED and last > max(GROWTH * first, first + SLACK_MB):
            found.append("memory grows")
        if self.processes_left or self.files_left:
            found.append(f"{self.processes_left} processes and {self.files_left} files remain")
        return found


def soak(
    family: str,
    tasks: list[Task],
    *,
    backend: Literal["process", "thread"],
    episodes: int,
    workers: int,
    slots: int,
    turns: int,
    seed: int,
) -> Soak:
    """Play episodes of one family, and kill the workers that can be killed."""
    result, rng = Soak(family, episodes), random.Random(seed)
    me = psutil.Process()
    samples: list[float] = []

    def done(episode: Episode) -> None:
        result.stops[episode.stop.value] += 1
        played = sum(result.stops.values())
        workers_now = me.children()
        family_tree = [me, *me.children(recursive=True)]
        samples.append(sum(_memory(process) for process in family_tree) / 2**20)
        if played % max(episodes // 4, 1) == 0:
            result.memory_mb.append(statistics.median(samples))
            samples.clear()
        # Nobody is left to be killed near the end.
        if (
            backend == "process"
            and rng.random() < 0.01
            and workers_now
            and played < episodes - slots
        ):
            rng.choice(workers_now).kill()
            result.kills += 1

    async def play() -> None:
        async with EnvPool(
            backend=backend,
            workers=workers,
            slots=slots,
            options={"extras": ("admissible_actions",)},
        ) as pool:
            jobs = [EpisodeJob(tasks[i % len(tasks)], f"soak:{i}", seed) for i in range(episodes)]
            _, stats = await play_many(
                RandomAgent(), jobs, pool, max_turns=turns, concurrency=slots, retries=0, done=done
            )
            result.lost = sum(stats.lost.values())

    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        tempfile.tempdir = folder  # of the workers too
        started = time.perf_counter()
        try:
            asyncio.run(play())
        finally:
            tempfile.tempdir = None
        result.seconds = time.perf_counter() - started
        result.processes_left = sum(map(_inside, psutil.process_iter(), itertools.repeat(folder)))
        result.files_left = len(list(Path(folder).iterdir()))
    return result


def _inside(process: psutil.Process, folder: str) -> bool:
    """Tell whether a process works in a folder, as workers and all that they start do."""
    try:
        return str(process.cwd()).startswith(folder)
    except psutil.Error:
        return False


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def main() -> int:
    """Play every chosen family, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_choice(parser)
    parser.add_argument("--backend", choices=["process", "thread"], default="process")
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument(
        "--tasks", type=int, default=50, help="different ones, each played many times"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--slots", type=int, default=8, help="concurrent episodes")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("| family | episodes | workers killed | ends | MiB in each quarter | left behind | s |")
    print("|---|---|---|---|---|---|---|")
    faults = []
    for family in args.families:
        tasks, missing = prepared(family, args.tasks)
        if missing:
            print(f"| {family} | not played: {missing} |", flush=True)
            faults.append(family)
            continue
        result = soak(
            family,
            tasks,
            backend=args.backend,
            episodes=args.episodes,
            workers=args.workers,
            slots=args.slots,
            turns=args.turns,
            seed=args.seed,
        )
        ends = ", ".join(f"{stop} {count}" for stop, count in sorted(result.stops.items()))
        left = "; ".join(result.faults) or "nothing"
        memory = ", ".join(f"{mb:.0f}" for mb in result.memory_mb)
        print(
            f"| {family} | {result.episodes} | {result.kills} | {ends} | {memory} | {left} |"
            f" {result.seconds:.0f} |",
            flush=True,
        )
        faults += result.faults
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
