"""Does it matter? Dense rewards with turn-level credit against episode-level GRPO on the outcome alone.

    python benchmarks/dense.py --world coin --seeds 0 1 2 --parallel 2

Arms with the same form of answers go on from the same warm start: the same tasks, episodes, optimiser steps and random
streams. Prints the table of docs/results.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from arms import QUICKSTART, ROOT, WEAK, Arm, compare, parse, table

TAGS = (
    "agent.parser={name: tags, thoughts: [planning, explore, reflection, monitor], require_think: true}",
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

They are longer and harder to write: a model that saw ten demonstrations wins nothing. Those of these arms make mistakes
on the way, so that there is something to reflect upon.
"""
OUTCOME = "rewards=[{name: outcome}]"
GRPO = "rl.credit={name: grpo}"
IGPO = "rl.credit={name: igpo}"
GAIN = "rewards=[{{name: outcome}}, {{name: information_gain, {}}}]"
META = "rewards=[{name: outcome}, {name: meta_reasoning}]"
PROGRESS = "rewards=[{name: outcome}, {name: progress, weight: 3}]"
TURN = "rl.credit={name: turn_return, gamma: 0.5}"
ARMS = [
    Arm("outcome, grpo", rl=(OUTCOME, GRPO)),
    Arm("progress, grpo", rl=(PROGRESS, GRPO)),
    Arm("progress, turn_return", rl=(PROGRESS, TURN)),
    Arm("information_gain (expert's action), igpo", rl=(GAIN.format("target: expert"), IGPO)),
    Arm("tagged answers: outcome, grpo", start=TAGS, rl=(OUTCOME, GRPO)),
    Arm("tagged answers: meta_reasoning, tag_group", start=TAGS, rl=(META, "rl.credit={name: tag_group}")),
]
WORLDS: dict[str, tuple[Path, tuple[str, ...], int | None]] = {
    "coin": (QUICKSTART, WEAK, None),
    "quest": (ROOT / "recipes" / "quest.yaml", (), 0),
}
"""World -> (recipe, changes, seed of the warm start that all share).

That on quest games takes a quarter of an hour, so there is one.
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--world", choices=sorted(WORLDS), default="coin")
    parser.add_argument("--arms", nargs="*", default=[], help="beginnings of the names of those to run (default: all)")
    args = parse(__doc__, parser)
    recipe, changes, start_seed = WORLDS[args.world]
    arms = [
        Arm(arm.name, (*changes, *arm.start), (*arm.rl, f"rl.steps={args.steps}"))
        for arm in ARMS
        if not args.arms or any(arm.name.startswith(part) for part in args.arms)
    ]
    results = compare(recipe, arms, args.seeds, args.runs, args.parallel, start_seed)
    print(table(results, arms))


if __name__ == "__main__":
    main()
