"""Choose the learning rate of each arm on validation tasks, with seeds of their own.

    best, page = sweep(QUICKSTART, arms, rates=[2.5e-4, 5e-4], seeds=[100, 101], steps=15,
    folder=RUNS, parallel=1)

No run of a sweep plays a test task, and none of its seeds is one of the comparison's.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from arms import Arm, continued, records, run_of, warm_start

TASKS = 60
"""Validation tasks that each run plays at its end."""


def sweep(
    recipe: Path,
    arms: Sequence[Arm],
    rates: Sequence[float],
    seeds: Sequence[int],
    steps: int,
    folder: Path,
    parallel: int,
) -> tuple[dict[str, float], str]:
    """Find the rate of each arm that won most validation tasks, and write a table of all rates.

    Tasks are summed over all seeds; of equals the smallest rate is taken.

    Every seed has a warm start of its own, which the arms share.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = [(arm, rate, seed) for arm in arms for rate in rates for seed in seeds]
    with ProcessPoolExecutor(parallel, mp_context=multiprocessing.get_context("spawn")) as pool:
        untested = {arm.name: without_tests(arm) for arm in arms}
        keys = {(untested[arm.name].start, seed): arm.name for arm, _, seed in places}
        starts = {
            key: pool.submit(warm_start, recipe, untested[name], key[1], folder)
            for key, name in keys.items()
        }
        jobs = []
        for arm, rate, seed in places:
            start = starts[untested[arm.name].start, seed].result()
            jobs.append(
                pool.submit(validate, recipe, untested[arm.name], rate, seed, steps, start, folder)
            )
        won = {
            (arm.name, rate, seed): job.result()
            for (arm, rate, seed), job in zip(places, jobs, strict=True)
        }
    sums = {
        arm.name: {rate: sum(won[arm.name, rate, seed] for seed in seeds) for rate in rates}
        for arm in arms
    }
    best = {name: chosen(counts) for name, counts in sums.items()}
    return best, table(sums, best, TASKS * len(seeds))


def without_tests(arm: Arm) -> Arm:
    """Make the arm anew so that it plays no test task, after either stage."""
    return dataclasses.replace(arm, start=(*arm.start, "evaluate.test_tasks=0"))


def validate(
    recipe: Path, arm: Arm, rate: float, seed: int, steps: int, start: Path, folder: Path
) -> int:
    """Count the validation tasks that the last weights of a short run win."""
    changes = (
        f"rl.optim.lr={rate}",
        f"rl.steps={steps}",
        f"evaluate.every={steps}",
        f"evaluate.tasks={TASKS}",
    )
    data = continued(recipe, dataclasses.replace(arm, rl=(*arm.rl, *changes)), seed, start)
    last = records(run_of(data, folder), "eval")[-1]
    won: float = last["success"] * last["n"]
    return round(won)


def chosen(won: Mapping[float, int]) -> float:
    """Choose the rate that won most, the smallest of equals."""
    return min(won, key=lambda rate: (-won[rate], rate))


def table(sums: Mapping[str, Mapping[float, int]], best: Mapping[str, float], n: int) -> str:
    """Write validation tasks won by each arm at each rate as Markdown, the chosen one in bold."""
    rates = list(next(iter(sums.values())))
    lines = [
        f"| of {n} validation tasks | {' | '.join(f'{rate:g}' for rate in rates)} |",
        "|---" * (1 + len(rates)) + "|",
    ]
    for name, won in sums.items():
        cells = [f"**{won[rate]}**" if rate == best[name] else str(won[rate]) for rate in rates]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
