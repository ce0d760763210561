"""Compare dense rewards with turn-level credit against episode-level GRPO on the outcome.

    python benchmarks/dense.py --world coin --seeds 0 1 2 3 4 --parallel 2

Arms with the same form of answers go on from the same warm start: the same tasks, episodes,
optimiser steps and random streams. Each is compared seed by seed with the outcome alone. Prints a
table.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from arms import QUICKSTART, ROOT, WEAK, Arm, compare, parse, table

TAGS = (
    (
        "agent.parser={name: tags, thoughts: [planning, explore, reflection, monitor],"
        " require_think: true}"
    ),
    "agent.sampling.max_tokens=32",
    "sft.tagger={name: rules}",
    "model.max_context=2048",
    "sft.demonstrations=60",
    "sft.noise=0.1",
    "sft.until_loss=0.03",
    "sft.epochs=10",
    "sft.patience=30",
)
"""Answers that name a kind of reasoning and give a thought, as `meta_reasoning` needs them.

They are longer and harder to write: a model that saw ten demonstrations wins nothing. Those of
these arms make mistakes on the way, so that there is something to reflect upon.
"""
OUTCOME = "rewards=[{name: outcome}]"
GRPO = "rl.credit={name: grpo}"
IGPO = "rl.credit={name: igpo}"
GAIN = "rewards=[{{name: outcome}}, {{name: information_gain, {}}}]"
META = "rewards=[{name: outcome}, {name: meta_reasoning}]"
PROGRESS = "rewards=[{name: outcome}, {name: progress, weight: 3}]"
TURN = "rl.credit={name: turn_return, gamma: 0.5}"
PLAIN, TAGGED = "outcome, grpo", "tagged answers: outcome, grpo"
ARMS = [
    Arm(PLAIN, rl=(OUTCOME, GRPO)),
    Arm("progress, grpo", rl=(PROGRESS, GRPO), against=PLAIN),
    Arm("progress, turn_return", rl=(PROGRESS, TURN), against=PLAIN),
    Arm(
        "information_gain (expert's plan), igpo",
        rl=(GAIN.format("target: expert"), IGPO),
        against=PLAIN,
    ),
    Arm(TAGGED, start=TAGS, rl=(OUTCOME, GRPO)),
    Arm(
        "tagged answers: meta_reasoning, tag_group",
        TAGS,
        (META, "rl.credit={name: tag_group}"),
        TAGGED,
    ),
]


@dataclass(frozen=True)
class World:
    """A world in which the arms are compared."""

    recipe: Path
    changes: tuple[str, ...] = ()
    tagged: tuple[str, ...] = ()
    """Further changes for tagged answers."""
    start_seed: int | None = None
    """Seed of a warm start that all share; None: each has its own."""


CORRIDOR = ROOT / "examples" / "custom_env.py"
WORLDS = {
    "coin": World(QUICKSTART, WEAK),
    "quest": World(ROOT / "recipes" / "quest.yaml", start_seed=0),  # a quarter of an hour each
    "corridor": World(
        CORRIDOR.with_suffix(".yaml"),
        ("model.max_context=1024", f"pool.imports=[{CORRIDOR}]"),
        # A mistake ends this game, so there is nothing to learn from one.
        ("sft.demonstrations=200", "sft.noise=0", "sft.epochs=20", "sft.until_loss=0.1"),
    ),
}


def main() -> None:
    """Run the comparison of the command line, and print its table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--world", choices=sorted(WORLDS), default="coin")
    parser.add_argument(
        "--arms",
        nargs="*",
        default=[],
        help="beginnings of the names of those to run (default: all)",
    )
    args = parse(__doc__, parser)
    world = WORLDS[args.world]
    chosen = [
        arm for arm in ARMS if not args.arms or any(arm.name.startswith(part) for part in args.arms)
    ]
    names = {arm.name for arm in chosen}
    arms = [
        Arm(
            arm.name,
            (*world.changes, *arm.start, *(world.tagged if arm.start else ())),
            (*arm.rl, f"rl.steps={args.steps}"),
            arm.against if arm.against in names else None,
        )
        for arm in chosen
    ]
    results = compare(world.recipe, arms, args.seeds, args.runs, args.parallel, world.start_seed)
    print(table(results, arms))


if __name__ == "__main__":
    main()
