"""The quickstart on several seeds: does its result hold?

    python benchmarks/seeds.py --seeds 0 1 2 3 --parallel 2  # runs/seeds/<seed>, a table

Each seed is one observation: the intervals are over seeds, the difference is taken seed by seed.

Parallel runs get one core each, so their seconds say nothing about a single run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from arms import p_value, points, share
from turnrl.agents.statistics import paired

SCRIPT = Path(__file__).with_name("quickstart.py")


def run(seed: int, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Run one quickstart in a process of its own. Raises RuntimeError if it fails.

    Its output goes beside its run.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    with log.open("w") as out:
        command = [
            sys.executable,
            str(SCRIPT),
            "--seed",
            str(seed),
            "--run",
            str(folder),
            *overrides,
        ]
        if subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False).returncode:
            raise RuntimeError(f"seed {seed} failed: see {log}")
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def main() -> None:
    """Run the quickstart on all seeds, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/seeds"))
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the recipe"
    )
    args = parser.parse_args()
    with ThreadPoolExecutor(args.parallel) as pool:
        alone = ["threads=1", "pool.workers=1"] if args.parallel > 1 else []
        results = list(
            pool.map(lambda seed: run(seed, args.runs / str(seed), [*alone, *args.set]), args.seeds)
        )
    print(
        table(
            [result["before"] for result in results],
            [result["after"] for result in results],
            args.seeds,
        )
    )


def table(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], seeds: Sequence[int]
) -> str:
    """Write games won per seed, before and after, their means and the difference as Markdown."""
    first, second = ([rate["success"] for rate in rates] for rates in (before, after))
    result = paired(first, second)
    lines = ["| seed | after the warm start | after reinforcement learning |", "|---|---|---|"]
    for seed, *rates in zip(seeds, before, after, strict=True):
        cells = [f"{round(rate['success'] * rate['n'])} of {rate['n']}" for rate in rates]
        lines.append(f"| {seed} | {cells[0]} | {cells[1]} |")
    lines.append(f"| mean over {len(seeds)} seeds | {share(first)} | {share(second)} |")
    gain = points(result.difference)
    lines.append(
        f"\nDifference: {gain} points; p {p_value(result.p)} (paired t), {p_value(result.p_flip)}"
        " (sign flips)."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
