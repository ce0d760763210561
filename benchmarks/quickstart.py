"""Train a 0.46 M-parameter model on TextWorld coin games and measure it on held-out ones.

    python benchmarks/quickstart.py  # runs/quickstart/{result.json, report.html, ...}
    python benchmarks/quickstart.py --seed 1 --run runs/quickstart-1

No route of a held-out game, nor a turned or mirrored one, occurs in training. Before and after are
sampled play at temperature 1 on the same held-out games, each once.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

RECIPE = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"


def run(seed: int, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Train, evaluate and write the report; return what ``result.json`` holds."""
    from turnrl.training.recipe import Recipe
    from turnrl.training.run import train
    from turnrl.training.run_folder.report import write_report

    if folder.exists():
        print(f"replacing the earlier run in {folder}", file=sys.stderr)
        shutil.rmtree(folder)
    started = time.perf_counter()
    result = train(Recipe.load(RECIPE, [f"seed={seed}", *overrides]), run_dir=folder)
    begun = time.perf_counter()
    write_report(folder)
    result["seconds"]["report"] = time.perf_counter() - begun
    result["seconds"]["total"] = time.perf_counter() - started
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def show(result: dict[str, Any], folder: Path) -> None:
    """Print the table of success before and after."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "", "success", "95 % interval", "n", title="Held-out coin-collector games, sampled play"
    )
    for name in ("before", "after"):
        rate = result[name]
        label = {"before": "after the warm start", "after": "after reinforcement learning"}[name]
        table.add_row(
            label,
            f"{rate['success']:.1%}",
            f"{rate['low']:.1%} to {rate['high']:.1%}",
            str(rate["n"]),
        )
    phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result["seconds"].items())
    table.caption = f"seed {result['seed']}; {phases}"
    console = Console()
    console.print(table)
    console.print(f"report: {folder / 'report.html'}")


def main() -> None:
    """Run the quickstart, and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"))
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="changes to recipes/quickstart.yaml"
    )
    args = parser.parse_args()
    show(run(args.seed, args.run, args.overrides), args.run)


if __name__ == "__main__":
    main()
