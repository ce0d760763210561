"""Does what was learnt on one complexity help on another? Train on some levels of the coin collector, test on others.

    python benchmarks/transfer.py --seeds 0 1 2 --parallel 2

A question of the Practitioner's Guide (arXiv 2510.01132). Prints the table of docs/results.md.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

from arms import QUICKSTART, Arm, Result, compare, parse, rate

COIN = "textworld/coin-v0"
MIXED = f"{{id: turnrl/mixed-v0, parts: [{{id: {COIN}, level: 5}}, {{id: {COIN}, level: 8}}]}}"
TRAINED = {"level 5": f"{{id: {COIN}, level: 5}}", "level 8": f"{{id: {COIN}, level: 8}}", "levels 5 and 8": MIXED}
SMALL = ("evaluate.test_tasks=16", "evaluate.tasks=8", "sft.validation=8")
"""Level 5 has no more routes that are kept from training: 8 valid games, 16 test games."""
TESTED = {5: 16, 8: 60, 11: 60}
"""Level -> test games."""


def main() -> None:
    """Command line."""
    args = parse(__doc__)
    arms = [Arm(name, (f"env={env}", *SMALL), (f"rl.steps={args.steps}",)) for name, env in TRAINED.items()]
    results = compare(QUICKSTART, arms, args.seeds, args.runs, args.parallel)
    places = [(result, level) for result in results for level in TESTED]
    with ProcessPoolExecutor(args.parallel) as pool:
        won = list(pool.map(test, *zip(*places, strict=True)))
    print(f"| trained on | {' | '.join(f'level {level}' for level in TESTED)} |")
    print("|---" * (1 + len(TESTED)) + "|")
    for arm in arms:
        cells = []
        for level, n in TESTED.items():
            counts = [count for (r, at), count in zip(places, won, strict=True) if (r.arm, at) == (arm.name, level)]
            cells.append(rate(sum(counts), n * len(counts)))
        print(f"| {arm.name} | {' | '.join(cells)} |")


def test(result: Result, level: int) -> int:
    """Test games of a level that the checkpoint wins, in as many turns as a level needs and four more."""
    from turnrl import evaluate

    measured = evaluate(
        COIN, str(result.checkpoint), params={"level": level}, tasks=TESTED[level], seed=result.seed,
        max_turns=level + 4, progress=False,
    )  # fmt: skip
    return round(measured.success * measured.n)


if __name__ == "__main__":
    main()
