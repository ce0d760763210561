"""Divide a budget between updates on demonstrations and steps of reinforcement learning.

    python benchmarks/ratio.py --seeds 0 1 2 3 4 --parallel 2

A question of the Practitioner's Guide (arXiv 2510.01132), asked on the quickstart with its ten
demonstrations. A step of reinforcement learning (64 episodes played and learnt from) costs about as
much as `PRICE` updates on 16 demonstrations; all arms spend the same. Prints a table, in which each
is compared with the warm start alone.
"""

from __future__ import annotations

from dataclasses import replace

from arms import QUICKSTART, Arm, compare, parse, table

BUDGET = 180
"""Updates on demonstrations that the whole budget would buy."""
PRICE = 5
UPDATES_PER_EPOCH = 5
SHARES = (60, 100, 140, 180)


def main() -> None:
    """Run every division of the budget, and print the table."""
    args = parse(__doc__)
    arms: list[Arm] = []
    names = {
        updates: f"{updates} updates, {(BUDGET - updates) // PRICE} steps" for updates in SHARES
    }
    for updates in SHARES:
        steps = (BUDGET - updates) // PRICE
        start = (
            f"sft.epochs={updates // UPDATES_PER_EPOCH}",
            "sft.until_loss=null",
            "sft.patience=1000",
        )
        against = None if updates == BUDGET else names[BUDGET]
        arms.append(Arm(names[updates], start, (f"rl.steps={max(steps, 1)}",), against))
    results = compare(QUICKSTART, arms, args.seeds, args.runs, args.parallel)
    # A stage has at least one step: the arm that has none is read before it.
    results = [replace(r, won=r.before) if r.arm == names[BUDGET] else r for r in results]
    print(table(results, arms))


if __name__ == "__main__":
    main()
