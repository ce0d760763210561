"""Does turn-level credit learn faster, with a dense reward and without one? Same warm starts, tasks, seeds and budget.

    python benchmarks/credit.py --seeds 0 1 2 3 4 --parallel 2

For each seed one weak warm start is trained, and each arm continues from it. Each arm's learning rate is chosen first,
on validation games and with other seeds (`--lrs`, `--sweep-seeds`). Writes docs/credit.md (tables) and docs/credit.svg
(success of the sampled training episodes per step).
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from arms import QUICKSTART, ROOT, WEAK, Arm, Result, compare, parse, table
from sweep import sweep

CREDITS = {
    "grpo": "{name: grpo}",
    "rloo": "{name: rloo}",
    "turn_return": "{name: turn_return, gamma: 0.5}",
    "gae": "{name: gae, over: turn, gamma: 0.5, lam: 0.95}",
    "igpo": "{name: igpo}",
}
"""Two episode-level ones, and three turn-level ones. Igpo is the one that information gain was proposed with."""
REWARDS = {
    "dense": "[{name: outcome}, {name: progress, weight: 3}]",
    "outcome": "[{name: outcome}]",
    "gain": "[{name: outcome}, {name: information_gain, target: expert}]",
}
"""Arms with the same rewards see the same numbers; episode-level ones see their sum."""
NAMES = [f"{key}, {kind}" for kind in ("dense", "outcome") for key in CREDITS if key != "igpo"] + ["igpo, gain"]
BASELINES = {"dense": "grpo, dense", "outcome": "grpo, outcome", "gain": "grpo, outcome"}
PANELS = {"with progress": ("dense",), "without it": ("outcome", "gain")}


def arms_of(steps: int, names: Sequence[str]) -> list[Arm]:
    """Each estimator with each reward, compared with `grpo` on the same reward (gain: on the outcome alone)."""
    arms = []
    for name in names:
        key, kind = name.split(", ")
        rl = (f"rewards={REWARDS[kind]}", f"rl.credit={CREDITS[key]}", f"rl.steps={steps}")
        arms.append(Arm(name, WEAK, rl, None if name in BASELINES.values() else BASELINES[kind]))
    return arms


def plot(results: Sequence[Result], arms: Sequence[Arm], target: Path) -> None:
    """Success of training episodes per step, smoothed over three steps: thin lines are seeds, thick ones their mean."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "turnrl"
    import matplotlib.pyplot as plt
    import numpy as np

    figure, panels = plt.subplots(1, len(PANELS), figsize=(9, 3.6), sharey=True)
    for panel, (title, kinds) in zip(panels, PANELS.items(), strict=True):
        for arm in arms:
            key, kind = arm.name.split(", ")
            if kind not in kinds:
                continue
            colour = f"C{list(CREDITS).index(key)}"
            curves = [result.curve for result in results if result.arm == arm.name]
            smooth = np.array([np.convolve(curve, np.ones(3) / 3, mode="valid") for curve in curves])
            steps = np.arange(smooth.shape[1]) + 2
            for curve in smooth:
                panel.plot(steps, curve, color=colour, alpha=0.25, linewidth=0.8)
            panel.plot(steps, smooth.mean(0), color=colour, label=key, linewidth=2)
        panel.set(title=title, xlabel="step (64 episodes each)", ylim=(0, 1))
        panel.legend()
        panel.grid(alpha=0.3)
    panels[0].set(ylabel="success of sampled training episodes")
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


PAGE = """# Turn-level against episode-level credit

`python benchmarks/credit.py --seeds {seeds} --steps {steps}` on TextWorld coin collector, level {level}. Every
arm starts from the same weak warm start per seed (the quickstart's, stopped earlier), plays the same training tasks and
takes the same number of optimiser steps; `dense` is the outcome and `progress`, `outcome` the outcome alone. Only the
rewards and the credit differ, and the learning rate, which each arm has of its own. The `gae` rows also train a critic
of the policy's size.

{table}

Each seed is one warm start and one run of each arm, which plays {n} test games once, the same for all. Means and
differences have 95 % t intervals over {count} seeds; differences are taken seed by seed, to `grpo` with the same
rewards. p is of the paired t test, corrected for {comparisons} comparisons (Holm); beside it is that of the exact
sign-flip test, uncorrected, which with {count} seeds cannot be below {floor:.3f}.

![success per step, thin lines are seeds](credit.svg)

## Learning rates

Chosen for each arm by a sweep of {sweep_steps} steps (seed {sweep_seeds}, which is none of the above) on validation
games. No run of the sweep played a test game. So few games and runs tell rates apart that differ much, and no others.

{rates}
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    parser.add_argument("--arms", nargs="*", default=NAMES, choices=NAMES, help="those to run (default: all)")
    parser.add_argument("--lrs", type=float, nargs="+", default=[5e-4, 1e-3], help="rates of the sweep")
    parser.add_argument("--sweep-seeds", type=int, nargs="+", default=[101])
    parser.add_argument("--sweep-steps", type=int, default=12)
    args = parse(__doc__, parser)
    if set(args.sweep_seeds) & set(args.seeds):
        parser.error("the seeds of the sweep must not be those of the comparison")
    arms = arms_of(args.steps, args.arms)
    best, rates = sweep(QUICKSTART, arms, args.lrs, args.sweep_seeds, args.sweep_steps, args.runs, args.parallel)
    print(rates, flush=True)
    tuned = [dataclasses.replace(arm, rl=(*arm.rl, f"rl.optim.lr={best[arm.name]}")) for arm in arms]
    results = compare(QUICKSTART, tuned, args.seeds, args.runs, args.parallel)
    from turnrl.training.recipe import Recipe

    text = table(results, tuned)
    plot(results, tuned, args.docs / "credit.svg")
    page = PAGE.format(
        level=Recipe.load(QUICKSTART).env_params["level"], seeds=" ".join(map(str, args.seeds)), steps=args.steps,
        table=text, count=len(args.seeds), n=results[0].n, comparisons=sum(arm.against is not None for arm in tuned),
        floor=2 / 2 ** len(args.seeds), sweep_steps=args.sweep_steps,
        sweep_seeds=", ".join(map(str, args.sweep_seeds)), rates=rates,
    )  # fmt: skip
    (args.docs / "credit.md").write_text(page)
    print(text)


if __name__ == "__main__":
    main()
