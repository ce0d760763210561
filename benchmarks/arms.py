"""Arms: variations of one recipe that start from the same warm starts, on several seeds.

    arms = [
        Arm("grpo", rl=["rl.credit={name: grpo}"]),
        Arm("rloo", rl=["rl.credit={name: rloo}"], against="grpo"),
    ]
    results = compare(QUICKSTART, arms, seeds=[0, 1, 2, 3, 4], folder=RUNS, parallel=2)
    print(table(results, arms))

A seed is one observation, however many games its run played: intervals are over seeds, and two arms
are compared seed by seed. Runs are kept in the folder under a digest of their recipe, so that no
script repeats what another has run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from turnrl.agents.statistics import Mean

ROOT = Path(__file__).parent.parent
RUNS = Path("runs/arms")
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"
WEAK = ("sft.until_loss=0.2",)
"""Changes to the quickstart: a weaker warm start, which leaves more to learn."""
ALONE = ("threads=1", "pool.workers=1")
"""Runs stand beside each other, one core each."""


@dataclass(frozen=True)
class Arm:
    """One variation.

    Args:
        name: of the row in the table.
        start: changes to the recipe that the warm start sees too, such as another world or another
            form of answers.
        rl: changes to what comes after it.
        against: name of the arm that it is compared with, seed by seed; None for one that others
            are compared with.
    """

    name: str
    start: Sequence[str] = ()
    rl: Sequence[str] = ()
    against: str | None = None


@dataclass(frozen=True)
class Result:
    """The result of one arm on one seed."""

    arm: str
    seed: int
    curve: list[float]
    """Success of the sampled training episodes per step."""
    won: int
    n: int
    """Test tasks that were won, and played."""
    before: int
    """Test tasks that the warm start won, of as many."""
    seconds: float
    """Play and update of a step, mean."""
    checkpoint: Path


def parse(
    description: str | None,
    parser: argparse.ArgumentParser | None = None,
    seeds: Sequence[int] = range(5),
    steps: int = 30,
) -> argparse.Namespace:
    """Parse the command line that the scripts share; `parser` has the options that one adds."""
    parser = parser or argparse.ArgumentParser()
    parser.description, parser.formatter_class = description, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--steps", type=int, default=steps, help="of reinforcement learning")
    parser.add_argument("--parallel", type=int, default=2, help="runs at once, one core each")
    parser.add_argument("--runs", type=Path, default=RUNS)
    return parser.parse_args()


def compare(
    recipe: Path,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    folder: Path,
    parallel: int,
    start_seed: int | None = None,
) -> list[Result]:
    """Run every arm on every seed, `parallel` at a time; results by arm, then seed.

    Each seed has a warm start of its own, unless `start_seed` says whose all of them share.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts: dict[tuple[int, tuple[str, ...]], Future[Path]] = {}
    jobs: list[Future[Result]] = []
    with ProcessPoolExecutor(parallel, mp_context=multiprocessing.get_context("spawn")) as pool:
        # All warm starts are under way before the first of them is waited for.
        for arm in arms:
            for seed in seeds:
                key = (seed if start_seed is None else start_seed, tuple(arm.start))
                if key not in starts:
                    starts[key] = pool.submit(warm_start, recipe, arm, key[0], folder)
        for arm in arms:
            for seed in seeds:
                key = (seed if start_seed is None else start_seed, tuple(arm.start))
                start = starts[key].result()
                jobs.append(pool.submit(reinforce, recipe, arm, seed, start, folder))
        return [job.result() for job in jobs]


def warm_start(recipe: Path, arm: Arm, seed: int, folder: Path) -> Path:
    """Train the supervised stage and play the test tasks; return the folder of the run."""
    data = _load(recipe, seed, arm.start)
    data["stages"] = [stage for stage in data["stages"] if stage["name"] == "sft"]
    return run_of(data, folder)


def reinforce(recipe: Path, arm: Arm, seed: int, start: Path, folder: Path) -> Result:
    """Train the stage after the warm start, and play the test tasks."""
    data = continued(recipe, arm, seed, start)
    data["evaluate"]["every"] = 0
    run = run_of(data, folder)
    [before], [test] = records(start, "test"), records(run, "test")
    steps = records(run, "train")
    return Result(
        arm.name,
        seed,
        [step["success"] for step in steps],
        round(test["success"] * test["n"]),
        test["n"],
        round(before["success"] * before["n"]),
        sum(
            step["seconds/play"] + step["seconds/reward"] + step["seconds/update"] for step in steps
        )
        / len(steps),
        run / "checkpoints" / "rl",
    )


def table(results: Sequence[Result], arms: Sequence[Arm], what: str = "games") -> str:
    """Write test tasks won per seed, their mean and the difference between arms as Markdown.

    Intervals are 95 % t intervals over seeds, those of differences not widened for their number;
    p-values of the paired t test are corrected for it (Holm), those of the exact sign-flip test
    stand beside them as they are.
    """
    n = {result.n for result in results}
    assert len(n) == 1, (
        "arms that played different numbers of test tasks do not belong into one table"
    )
    of = f"of {n.pop()}"
    rows = {arm.name: [result for result in results if result.arm == arm.name] for arm in arms}
    found = compared(
        {name: [row.won / row.n for row in of_arm] for name, of_arm in rows.items()}, arms
    )
    lines = [
        f"| | before, per seed ({of}) | test {what} won, per seed ({of}) {HEAD}",
        "|---" * 7 + "|",
    ]
    for name, of_arm in rows.items():
        before, won = counts([row.before for row in of_arm]), counts([row.won for row in of_arm])
        lines.append(f"| {' | '.join([name, before, won, *found[name]])} |")
    return "\n".join(lines)


def speed_table(results: Sequence[Result], arms: Sequence[Arm]) -> str:
    """Write sampled training episodes won as Markdown, as `table` does; mean over the steps."""
    shares = {
        arm.name: [
            sum(result.curve) / len(result.curve) for result in results if result.arm == arm.name
        ]
        for arm in arms
    }
    found = compared(shares, arms)
    lines = [f"| | training episodes won, per seed (%) {HEAD}", "|---" * 6 + "|"]
    for name, values in shares.items():
        percents = ", ".join(f"{100 * value:.0f}" for value in values)
        lines.append(f"| {' | '.join([name, percents, *found[name]])} |")
    return "\n".join(lines)


HEAD = "| mean over seeds | difference, points | p (t, Holm) | p (sign flips) |"


def compared(values: Mapping[str, Sequence[float]], arms: Sequence[Arm]) -> dict[str, list[str]]:
    """Write the cells under `HEAD` for the values per seed of each arm."""
    from turnrl.agents.statistics import holm, paired

    against = {arm.name: arm.against for arm in arms if arm.against is not None}
    found = {name: paired(values[other], values[name]) for name, other in against.items()}
    corrected = dict(zip(found, holm([result.p for result in found.values()]), strict=True))
    cells = {name: [share(shares), "", "", ""] for name, shares in values.items()}
    for name, result in found.items():
        cells[name][1] = f"{points(result.difference)} to {against[name]}"
        cells[name][2:] = [p_value(corrected[name]), p_value(result.p_flip)]
    return cells


def counts(won: Sequence[int]) -> str:
    """Write the wins per seed, with commas between them."""
    return ", ".join(map(str, won))


def share(rates: Sequence[float]) -> str:
    """Write the mean over seeds with its 95 % t interval, cut to what a share can be."""
    from turnrl.agents.statistics import mean_interval

    mean = mean_interval(rates)
    return f"{mean.mean:.1%} ({max(mean.low, 0):.1%} to {min(mean.high, 1):.1%})"


def points(difference: Mean) -> str:
    """Write a difference of shares in percentage points, with its interval."""
    return (
        f"{100 * difference.mean:+.1f} ({100 * difference.low:+.1f} to"
        f" {100 * difference.high:+.1f})"
    )


def continued(recipe: Path, arm: Arm, seed: int, start: Path) -> dict[str, Any]:
    """Make the recipe of what comes after a warm start, as data."""
    data = _load(recipe, seed, (*arm.start, *arm.rl))
    data["model"] = {"name": str((start / "checkpoints" / "sft").resolve())}
    data["stages"] = [stage for stage in data["stages"] if stage["name"] == "rl"]
    return data


def p_value(p: float) -> str:
    """Write three digits of a p-value."""
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"


def _load(recipe: Path, seed: int, overrides: Sequence[str]) -> dict[str, Any]:
    from turnrl.training.recipe import Recipe

    return Recipe.load(recipe, [f"seed={seed}", *ALONE, *overrides]).model_dump(mode="json")


def run_of(data: dict[str, Any], folder: Path) -> Path:
    """Return the folder of this recipe's finished run, and train that unless it is there."""
    import torch
    from turnrl.training.recipe import Recipe
    from turnrl.training.run import train

    torch.set_num_threads(1)
    made = Recipe.parse(data)
    what = made.dump().replace(str(folder.resolve()), "")  # the folder may be moved
    run = folder / hashlib.sha256(what.encode()).hexdigest()[:12]
    if not (run / "result.json").exists():
        shutil.rmtree(run, ignore_errors=True)
        train(made, run_dir=run, progress=False)
    return run


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    """Read the lines of a run's metrics that are of a kind: 'train', 'eval' or 'test'."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]
