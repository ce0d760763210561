"""Does turn-level credit learn faster? Four estimators, the same warm starts, tasks, seeds and budget.

    python benchmarks/credit.py --seeds 0 1 2 --parallel 2

For each seed one weak warm start is trained, and each estimator continues from it. Writes docs/credit.md
(table) and docs/credit.svg (success of the sampled training episodes per step, mean and range over seeds).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from arms import QUICKSTART, ROOT, WEAK, Arm, Result, compare, parse, table

CREDITS = {
    "grpo": "{name: grpo}",
    "rloo": "{name: rloo}",
    "turn_return": "{name: turn_return, gamma: 0.5}",
    "gae": "{name: gae, over: turn, gamma: 0.5, lam: 0.95}",
}
"""Two episode-level ones, two turn-level ones. All see the same rewards; episode-level ones see their sum."""


def plot(results: Sequence[Result], target: Path) -> None:
    """Success of training episodes per step, smoothed over three steps: mean and range over seeds."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "turnrl"
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(figsize=(7, 4))
    for key in CREDITS:
        curves = np.array([result.curve for result in results if result.arm == key])
        smooth = np.array([np.convolve(curve, np.ones(3) / 3, mode="valid") for curve in curves])
        steps = np.arange(smooth.shape[1]) + 2
        (line,) = axes.plot(steps, smooth.mean(0), label=key)
        axes.fill_between(steps, smooth.min(0), smooth.max(0), color=line.get_color(), alpha=0.15)
    axes.set(xlabel="step (64 episodes each)", ylabel="success of sampled training episodes", ylim=(0, 1))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


PAGE = """# Turn-level against episode-level credit

`python benchmarks/credit.py --seeds {seeds} --steps {steps}` on TextWorld coin collector, level {level}. Every
estimator starts from the same weak warm start per seed (the quickstart's, stopped earlier), plays the same tasks with
the same rewards (outcome and progress) and takes the same number of optimiser steps; only the credit differs. The `gae`
rows also train a critic of the policy's size.

{table}

![success per step](credit.svg)

Ranges are over seeds; intervals are 95 % Wilson intervals of the pooled test games. {count} seeds of one small world
decide little: read this as what happens here.
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    args = parse(__doc__, parser)
    arms = [Arm(key, WEAK, (f"rl.credit={credit}", f"rl.steps={args.steps}")) for key, credit in CREDITS.items()]
    results = compare(QUICKSTART, arms, args.seeds, args.runs, args.parallel)
    from turnrl.training.recipe import Recipe

    text = table(results, arms)
    plot(results, args.docs / "credit.svg")
    page = PAGE.format(
        level=Recipe.load(QUICKSTART).env_params["level"], seeds=" ".join(map(str, args.seeds)), steps=args.steps,
        table=text, count=len(args.seeds),
    )  # fmt: skip
    (args.docs / "credit.md").write_text(page)
    print(text)


if __name__ == "__main__":
    main()
