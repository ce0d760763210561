"""Compare turn-level with episode-level credit, with and without a dense reward.

All arms share warm starts, tasks, seeds and budget.

    python benchmarks/credit.py --parallel 2

For each seed one weak warm start is trained, and each arm continues from it. Each arm's learning
rate is chosen first, on validation tasks and with other seeds (`--lrs`, `--sweep-seeds`). Writes
docs/credit.md (tables) and docs/credit.svg (success of the sampled training episodes per step);
with `--world coin` docs/credit-coin.md and docs/credit-coin.svg, on the quickstart's games, which
takes an hour or two on two idle cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arms import QUICKSTART, ROOT, WEAK, Arm, Result, compare, parse, speed_table, table
from sweep import sweep

CORRIDOR = ROOT / "examples" / "custom_env.py"


@dataclass(frozen=True)
class World:
    """A world in which the estimators are compared."""

    recipe: Path
    changes: tuple[str, ...]
    """A warm start that leaves most to learn, among others."""
    what: str


WORLDS = {
    "corridor": World(
        CORRIDOR.with_suffix(".yaml"),
        ("model.max_context=1024", f"pool.imports=[{CORRIDOR}]", "sft.until_loss=0.45"),
        "the corridor of `examples/custom_env.py` (six rooms, each with one open door; a wrong one"
        " ends the game)",
    ),
    "coin": World(QUICKSTART, WEAK, "TextWorld coin collector, level 8"),
}
CREDITS = {
    "grpo": "{name: grpo}",
    "rloo": "{name: rloo}",
    "turn_return": "{name: turn_return, gamma: 0.5}",
    "gae": "{name: gae, over: turn, gamma: 0.5, lam: 0.95}",
    "turn_return (gamma 1)": "{name: turn_return, gamma: 1}",
    "gae (gamma 1)": "{name: gae, over: turn, gamma: 1, lam: 0.95}",
}
"""Two episode-level ones, then turn-level ones. A discount of 0.5 suits a reward that comes with
every turn.
"""
REWARDS = {
    "dense": "[{name: outcome}, {name: progress, weight: 3}]",
    "outcome": "[{name: outcome}]",
}
"""Arms with the same rewards see the same numbers; episode-level ones see their sum."""
NAMES = [
    *(f"{key}, dense" for key in ("grpo", "rloo", "turn_return", "gae")),
    *(f"{key}, outcome" for key in CREDITS),
]
BASELINES: dict[str, str | None] = {
    "dense": "grpo, dense",
    "outcome": "grpo, outcome",
    "grpo, dense": "grpo, outcome",
    "grpo, outcome": None,
}
"""What an arm is compared with, by its name or its reward."""
PANELS = {"with progress": "dense", "without it": "outcome"}


def arms_of(world: World, steps: int, names: Sequence[str]) -> list[Arm]:
    """List each estimator with each reward, and the arm that it is compared with.

    That is `grpo` on the same reward, and for `grpo` itself `grpo` on the outcome.
    """
    arms = []
    for name in names:
        key, kind = name.split(", ")
        rl = (f"rewards={REWARDS[kind]}", f"rl.credit={CREDITS[key]}", f"rl.steps={steps}")
        against = BASELINES.get(name, BASELINES[kind])
        arms.append(Arm(name, world.changes, rl, against if against in names else None))
    return arms


def plot(results: Sequence[Result], arms: Sequence[Arm], target: Path) -> None:
    """Draw success of training episodes per step, smoothed over three steps.

    Thin lines are seeds, thick ones their mean.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "turnrl"
    import matplotlib.pyplot as plt
    import numpy as np

    drawn = {
        title: kind
        for title, kind in PANELS.items()
        if any(arm.name.endswith(f", {kind}") for arm in arms)
    }
    figure, panels = plt.subplots(
        1, len(drawn), figsize=(4.5 * len(drawn), 3.6), sharey=True, squeeze=False
    )
    for panel, (title, shown) in zip(panels[0], drawn.items(), strict=True):
        for arm in arms:
            key, kind = arm.name.split(", ")
            if kind != shown:
                continue
            colour = f"C{list(CREDITS).index(key)}"
            curves = [result.curve for result in results if result.arm == arm.name]
            smooth = np.array(
                [np.convolve(curve, np.ones(3) / 3, mode="valid") for curve in curves]
            )
            steps = np.arange(smooth.shape[1]) + 2
            for curve in smooth:
                panel.plot(steps, curve, color=colour, alpha=0.25, linewidth=0.8)
            panel.plot(steps, smooth.mean(0), color=colour, label=key, linewidth=2)
        panel.set(title=title, xlabel="step (64 episodes each)", ylim=(0, 1))
        panel.legend()
        panel.grid(alpha=0.3)
    panels[0, 0].set(ylabel="success of sampled training episodes")
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


PAGE = """# Turn-level against episode-level credit: {title}

```
{command}
```

World: {what}.

Every arm starts from the same weak warm start per seed, plays the same training tasks and takes the
same number of optimiser steps, each of 64 episodes. `dense` is the outcome and `progress`,
`outcome` the outcome alone. Only the rewards, the credit and the learning rate differ, of which
each arm has its own. The `gae` rows also train a critic of the policy's size. Where no other is
named `turn_return` and `gae` (over turns, lambda 0.95) discount by 0.5 per turn, which suits a
reward that comes with every turn.

{table}

{speed}

Each seed is one warm start and one run of each arm, which plays {n} test tasks once, the same for
all; training episodes are the mean over the steps, so they say how fast an arm learns. Means and
differences have 95 % t intervals over {count} seeds; differences are taken seed by seed. p is of
the paired t test, corrected for the {comparisons} comparisons of its table (Holm); beside it is
that of the exact sign-flip test, uncorrected, which with {count} seeds cannot be below {floor:.3f}.

![success per step, thin lines are seeds]({name}.svg)

## Learning rates

Chosen for each arm by a sweep of {sweep_steps} steps on validation tasks (seed {sweep_seeds}, which
is none of the above): the rate that won most, the smallest of equals. No run of the sweep played a
test task. So few tasks and runs tell only such rates apart as differ much.

{rates}
"""


def main() -> None:
    """Run the comparison of the command line, and write its page and its plot."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    parser.add_argument("--world", choices=sorted(WORLDS), default="corridor")
    parser.add_argument(
        "--arms", nargs="*", default=NAMES, choices=NAMES, help="those to run (default: all)"
    )
    parser.add_argument(
        "--lrs", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3, 4e-3], help="rates of the sweep"
    )
    parser.add_argument("--sweep-seeds", type=int, nargs="+", default=[101])
    parser.add_argument("--sweep-steps", type=int, default=8)
    args = parse(__doc__, parser, seeds=range(8), steps=12)
    if set(args.sweep_seeds) & set(args.seeds):
        parser.error("the seeds of the sweep must not be those of the comparison")
    world = WORLDS[args.world]
    arms = arms_of(world, args.steps, args.arms)
    best, rates = sweep(
        world.recipe, arms, args.lrs, args.sweep_seeds, args.sweep_steps, args.runs, args.parallel
    )
    print(rates, flush=True)
    tuned = [
        dataclasses.replace(arm, rl=(*arm.rl, f"rl.optim.lr={best[arm.name]}")) for arm in arms
    ]
    results = compare(world.recipe, tuned, args.seeds, args.runs, args.parallel)
    name = "credit" if args.world == "corridor" else f"credit-{args.world}"
    numbers = {
        "seeds": args.seeds,
        "steps": [args.steps],
        "lrs": args.lrs,
        "sweep-seeds": args.sweep_seeds,
        "sweep-steps": [args.sweep_steps],
    }
    options = [f"--{key} {' '.join(map(str, values))}" for key, values in numbers.items()]
    if args.arms != NAMES:
        options.append(f"--arms {shlex.join(args.arms)}")
    plot(results, tuned, args.docs / f"{name}.svg")
    page = PAGE.format(
        title=args.world,
        what=world.what,
        name=name,
        table=table(results, tuned, "tasks"),
        command=" ".join([f"python benchmarks/credit.py --world {args.world}", *options]),
        speed=speed_table(results, tuned),
        count=len(args.seeds),
        n=results[0].n,
        comparisons=sum(arm.against is not None for arm in tuned),
        floor=2 / 2 ** len(args.seeds),
        sweep_steps=args.sweep_steps,
        sweep_seeds=", ".join(map(str, args.sweep_seeds)),
        rates=rates,
    )
    (args.docs / f"{name}.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
