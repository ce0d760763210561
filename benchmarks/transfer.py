"""Train on some levels of the coin collector and test on others.

    python benchmarks/transfer.py --seeds 0 1 2 3 4 --parallel 2

A question of the Practitioner's Guide (arXiv 2510.01132). Prints games won per seed
and level, and what the arm that was trained on both levels wins more than the others.
"""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor

from arms import QUICKSTART, Arm, Result, compare, counts, p_value, parse, points, share

COIN = "textworld/coin-v0"
MIXED = f"{{id: turnrl/mixed-v0, parts: [{{id: {COIN}, level: 5}}, {{id: {COIN}, level: 8}}]}}"
TRAINED = {
    "level 5": f"{{id: {COIN}, level: 5}}",
    "level 8": f"{{id: {COIN}, level: 8}}",
    "levels 5 and 8": MIXED,
}
SMALL = ("evaluate.test_tasks=16", "evaluate.tasks=8", "sft.validation=8")
"""Level 5 has no more routes that are kept from training: 8 valid games, 16 test games."""
TESTED = {5: 16, 8: 60, 11: 60}
"""Level -> test games."""


def main() -> None:
    """Train all arms, test them on every level, and print the table."""
    from turnrl.agents.statistics import holm, paired

    args = parse(__doc__)
    arms = [
        Arm(name, (f"env={env}", *SMALL), (f"rl.steps={args.steps}",))
        for name, env in TRAINED.items()
    ]
    results = compare(QUICKSTART, arms, args.seeds, args.runs, args.parallel)
    places = [(result, level) for result in results for level in TESTED]
    with ProcessPoolExecutor(args.parallel) as pool:
        tested = list(pool.map(test, *zip(*places, strict=True)))
    won: dict[tuple[str, int], list[int]] = defaultdict(list)
    for (result, level), count in zip(places, tested, strict=True):
        won[result.arm, level].append(count)
    mixed = arms[-1].name
    pairs = [(arm.name, level) for arm in arms[:-1] for level in TESTED]
    found = {(name, level): paired(won[name, level], won[mixed, level]) for name, level in pairs}
    corrected = dict(zip(found, holm([result.p for result in found.values()]), strict=True))
    print(
        f"| trained on | tested on | won, per seed | mean over seeds | {mixed} minus this, points |"
        " p (t, Holm) |"
    )
    print("|---" * 6 + "|")
    for (name, level), counted in won.items():
        rates = [count / TESTED[level] for count in counted]
        cells = [
            name,
            f"level {level}",
            f"{counts(counted)} of {TESTED[level]}",
            share(rates),
            "",
            "",
        ]
        if (name, level) in found:
            gain = paired(rates, [count / TESTED[level] for count in won[mixed, level]])
            cells[-2:] = [points(gain.difference), p_value(corrected[name, level])]
        print(f"| {' | '.join(cells)} |")


def test(result: Result, level: int) -> int:
    """Count the test games of a level that a checkpoint wins, in four turns more than it needs."""
    from turnrl import evaluate

    measured = evaluate(
        COIN,
        str(result.checkpoint),
        params={"level": level},
        tasks=TESTED[level],
        seed=result.seed,
        max_turns=level + 4,
        progress=False,
    )
    return sum(task.success is True for task in measured.tasks)


if __name__ == "__main__":
    main()
