"""Play a run's test tasks several times with the weights before and after reinforcement.

    turnrl train recipes/search.yaml --run runs/search
    python benchmarks/gain.py runs/search --plays 3  # the weights that the run tested
    python benchmarks/gain.py runs/search --plays 3 --weights last      # those after its last step

Both play the same tasks, so the difference is taken task by task, which is sharper than two
intervals side by side. Its interval is over tasks, however often each was played; the luck of
training is not in it: that takes several runs. Prints a row of the table in docs/results.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from arms import points
from turnrl import Episode, evaluate
from turnrl.agents.statistics import Mean
from turnrl.training.recipe import Recipe

WEIGHTS = ("tested", "last")
Z = statistics.NormalDist().inv_cdf(0.975)


def main() -> None:
    """Play the test tasks of the given runs, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, help="folders of finished runs with the stages sft and rl"
    )
    parser.add_argument(
        "--plays",
        type=int,
        default=3,
        help="of every test task, with other random numbers each time",
    )
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default="tested",
        help=(
            "tested: those that the run's result is of (the best on the validation split, where it"
            " looked); last"
        ),
    )
    args = parser.parse_args()
    print(
        "| run | weights | tasks | plays of each | before | after | difference, 95 % interval over"
        " tasks |"
    )
    print("|---|---|---|---|---|---|---|")
    for run in args.runs:
        name = after_name(run, args.weights)
        before, after = (played(run, stage, args.plays) for stage in ("sft", name))
        gain = difference(before, after)
        rates = " | ".join(f"{statistics.fmean(won.values()):.1%}" for won in (before, after))
        print(
            f"| {run.name} | {args.weights} | {gain.n} | {args.plays} | {rates} | {points(gain)} |",
            flush=True,
        )


def after_name(run: Path, weights: str) -> str:
    """Name the checkpoint of a run; 'tested' is the one whose tests the run reports.

    That is the best one if the run was evaluated on the way.
    """
    looked = bool(Recipe.load(run / "recipe.yaml").evaluate.every)
    return (
        "best"
        if weights == "tested" and looked and (run / "checkpoints" / "best").is_dir()
        else "rl"
    )


def played(run: Path, stage: str, plays: int) -> dict[str, float]:
    """Play a run's test tasks, and return the share of plays that each was won in.

    Failed plays are left out.
    """
    recipe = Recipe.load(run / "recipe.yaml")
    env = dict(recipe.env)
    id = env.pop("id")
    won: dict[str, list[bool]] = defaultdict(list)
    for seed in range(1, plays + 1):
        episodes: list[Episode] = []
        evaluate(
            id,
            str(run / "checkpoints" / stage),
            params=env,
            tasks=recipe.evaluate.test_tasks or None,
            seed=seed,
            temperature=recipe.evaluation.temperature,
            imports=recipe.pool.imports,
            episodes=episodes,
        )
        for episode in episodes:
            if not episode.stop.failed:
                won[episode.task.id].append(episode.success)
    return {task: statistics.fmean(outcomes) for task, outcomes in won.items()}


def difference(before: Mapping[str, float], after: Mapping[str, float]) -> Mean:
    """Subtract before from after over tasks that both played: mean and normal 95 % interval."""
    gains = [after[task] - before[task] for task in before.keys() & after.keys()]
    mean, error = statistics.fmean(gains), statistics.stdev(gains) / len(gains) ** 0.5
    return Mean(mean, mean - Z * error, mean + Z * error, len(gains))


if __name__ == "__main__":
    main()
