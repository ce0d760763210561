"""Measure bias and noise of every credit estimator on problems whose gradient is known.

    python benchmarks/estimators.py                # the tables
    python benchmarks/estimators.py --json         # every number
    python benchmarks/estimators.py --write-docs   # docs/estimators.md

The problems are in `problems.py`, the exact arithmetic in `tabular.py`, what is measured in
`biases.py`, and the words of the page in `estimators_page.py`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import biases
import torch
from biases import BATCHES, COMPARED, EXACT, MANY, SELECTED, SETTINGS, SIZE, Chosen, Row, Setting
from estimators_page import NOTES, TEXT
from problems import PROBLEMS
from tabular import Comparison
from turnrl.training.losses.base import Aggregation
from turnrl.training.selection.base import SELECTIONS

PAGE = Path(__file__).parent.parent / "docs" / "estimators.md"
CHANCES, SIZES = (0.5, 0.2, 0.05, 0.01), (4, 8, 16, 64)
"""Of a win, and of a group: where `grpo` is measured by difficulty."""
NORMALISED: tuple[Aggregation, ...] = ("token_mean", "seq_mean_token_mean")
"""Aggregations that divide by how long what was sampled is; the first is the default."""


def percent(value: float) -> str:
    """Write a bias in percent: 0 if it is exact."""
    return "0" if value < EXACT else f"{value:.2%}" if value < 0.01 else f"{value:.1%}"


def by_setting(rows: Sequence[Row]) -> list[tuple[Setting, list[Row]]]:
    """List the settings that were measured, in order, with their rows."""
    found = [(setting, [row for row in rows if row.setting == setting]) for setting in SETTINGS]
    return [(setting, mine) for setting, mine in found if mine]


def matrix(rows: Sequence[Row], cell: Callable[[Row], str]) -> str:
    """Write Markdown with a line per setting and a column per problem."""
    names = [problem.name for problem in PROBLEMS]
    lines = ["| credit | settings | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for setting, mine in by_setting(rows):
        cells = {row.problem: cell(row) for row in mine}
        lines.append(
            f"| `{setting.name}` | {setting.label} | "
            + " | ".join(cells.get(name, "") for name in names)
            + " |"
        )
    return "\n".join(lines)


def small_bias(row: Row) -> str:
    """Write the bias of a batch of two groups, that to the discounted gradient in brackets."""
    return percent(row.small.bias) + (
        f" ({percent(row.discounted.bias)})" if row.discounted else ""
    )


def bias_by(aggregation: Aggregation) -> Callable[[Row], str]:
    """Make a function that writes a row's bias with an aggregation, for the cells of a matrix."""
    return lambda row: percent(row.by[aggregation].bias)


def interval(found: Comparison) -> str:
    """Write the 95 % interval of a bias."""
    return f"{max(found.bias - found.margin, 0.0):.1%} to {found.bias + found.margin:.1%}"


def worst(rows: Sequence[Row], aggregation: Aggregation) -> str:
    """Write the largest bias and where it is."""
    row = max(rows, key=lambda row: row.by[aggregation].bias)
    found = row.by[aggregation].bias
    return f"{percent(found)} (`{row.problem}`)" if found >= EXACT else "0"


def summary(rows: Sequence[Row]) -> str:
    """Write the worst case of every setting over the problems as Markdown."""
    lines = [
        (
            "| credit | settings | smallest cosine | scale | bias: sum | bias: `token_mean` | bias:"
            " `seq_mean_token_mean` | largest noise |"
        ),
        "|---" * 8 + "|",
    ]
    for setting, mine in by_setting(rows):
        scales = [row.small.scale for row in mine]
        low, high = f"{min(scales):.2f}", f"{max(scales):.2f}"
        lines.append(
            f"| `{setting.name}` | {setting.label} | {min(row.small.cosine for row in mine):.4f} "
            f"| {low if low == high else f'{low} to {high}'} | {worst(mine, 'seq_mean_token_sum')} "
            f"| {worst(mine, 'token_mean')} | {worst(mine, 'seq_mean_token_mean')} "
            f"| {max(row.small.noise for row in mine):.2f} |"
        )
    return "\n".join(lines)


def difficulties() -> str:
    """Write `grpo`'s factor on a task's gradient as Markdown, by chance of a win and group size."""
    lines = [
        "| chance of a win | " + " | ".join(f"groups of {size}" for size in SIZES) + " |",
        "|---" * 5 + "|",
    ]
    lines += [
        f"| {c} | " + " | ".join(f"{biases.difficulty(c, size):.2f}" for size in SIZES) + " |"
        for c in CHANCES
    ]
    return "\n".join(lines)


def table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Write Markdown with one column per problem after the others."""
    names = [problem.name for problem in PROBLEMS]
    lines = ["| " + " | ".join([*head, *names]) + " |", "|---" * (len(head) + len(names)) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells)])


def aggregations(rows: Sequence[Row]) -> str:
    """Write `rloo` by aggregation on each problem as Markdown, exact for two groups."""
    mine = {row.problem: row for row in rows if row.setting.config == {"name": "rloo"}}
    names: tuple[Aggregation, ...] = (*NORMALISED, "seq_mean_token_sum", "seq_mean_token_sum_norm")
    return table(
        ["aggregation"],
        [[f"`{name}`", *(bias_by(name)(mine[p.name]) for p in PROBLEMS)] for name in names],
    )


def aggregations_large() -> str:
    """Write `rloo` by aggregation on each problem as Markdown, sampled with many groups."""
    return table(
        ["aggregation"],
        [
            [f"`{name}`", *(interval(biases.aggregated(p, name)) for p in PROBLEMS)]
            for name in NORMALISED
        ],
    )


def selections(rows: Sequence[Chosen], sizes: Sequence[int] = SELECTED) -> str:
    """Write Markdown with a line per selection, estimator and size of the group."""
    cells = []
    for selection, credit, size in [
        (s, c, n) for s in SELECTIONS.names() for c in COMPARED for n in sizes
    ]:
        mine = {
            row.problem: row
            for row in rows
            if (row.selection, row.credit, row.size) == (selection, credit, size)
        }
        found = [percent(mine[problem.name].comparison.bias) for problem in PROBLEMS]
        cells.append([f"`{selection}`", f"`{credit}`", str(size), *found])
    return table(["selection", "credit", "group of"], cells)


def kept(rows: Sequence[Chosen]) -> str:
    """Write the share of groups of which something is kept as Markdown."""
    cells = []
    for selection, size in [(s, n) for s in SELECTIONS.names() for n in SELECTED]:
        mine = {row.problem: row for row in rows if (row.selection, row.size) == (selection, size)}
        cells.append(
            [
                f"`{selection}`",
                str(size),
                *(f"{mine[problem.name].kept:.0%}" for problem in PROBLEMS),
            ]
        )
    return table(["selection", "group of"], cells)


def notes(rows: Sequence[Row]) -> str:
    """Write Markdown with a line per biased estimator."""
    lines = []
    for title, wanted, why in NOTES:
        mine = [row for row in rows if wanted(row.setting)]
        worst, large = (
            max(mine, key=lambda row: row.small.bias),
            [row.large for row in mine if row.large],
        )
        critic = ", wrong critic" if worst.setting.critic == "wrong" else ""
        line = f"- {title}: {why}. Up to {percent(worst.small.bias)} (`{worst.problem}`{critic})"
        if large:
            seen = max(large, key=lambda found: found.bias - found.margin)
            most = max(found.bias + found.margin for found in large)
            line += f"; with {MANY} groups "
            line += (
                interval(seen)
                if seen.bias > seen.margin
                else f"none is seen (below {most:.1%} on every problem)"
            )
        lines.append(line + ".")
    return "\n".join(lines)


def unbiased(rows: Sequence[Row]) -> str:
    """Write the settings without bias under the sum as Markdown, with scale and other biases."""
    lines = [
        "| credit | settings | scale | bias: sum | `token_mean` | `seq_mean_token_mean` |",
        "|---" * 6 + "|",
    ]
    for setting, mine in by_setting(rows):
        if max(row.small.bias for row in mine) < EXACT:
            others = " | ".join(worst(mine, name) for name in NORMALISED)
            lines.append(
                f"| `{setting.name}` | {setting.label} | {mine[0].small.scale:.4g} | 0 | {others} |"
            )
    return "\n".join(lines)


def plainly(rows: Sequence[Row], aggregation: Aggregation) -> str:
    """Write a sentence about `rloo` with an aggregation."""
    mine = [row for row in rows if row.setting.config == {"name": "rloo"}]
    return f"`rloo` with `{aggregation}` has a bias of up to {worst(mine, aggregation)}."


def contrastive(rows: Sequence[Chosen]) -> str:
    """Write the range of biases of the contrastive selection in front of `rloo`."""
    found = [
        row.comparison.bias
        for row in rows
        if (row.selection, row.credit, row.size) == ("dynamic_contrastive", "rloo", SIZE)
    ]
    return f"{percent(min(found))} to {percent(max(found))}"


def page(rows: Sequence[Row], chosen: Sequence[Chosen]) -> str:
    """Write the page docs/estimators.md."""
    return TEXT.format(
        size=SIZE,
        many=MANY,
        batches=BATCHES,
        problems="\n".join(f"| {problem.name} | {problem.about} |" for problem in PROBLEMS),
        unbiased=unbiased(rows),
        token_mean=plainly(rows, "token_mean"),
        seq_mean=plainly(rows, "seq_mean_token_mean"),
        aggregations=aggregations(rows),
        aggregations_large=aggregations_large(),
        dynamic=contrastive(chosen),
        selections=selections(chosen),
        kept=kept(chosen),
        notes=notes(rows),
        difficulties=difficulties(),
        summary=summary(rows),
        bias=matrix(rows, small_bias),
        bias_token_mean=matrix(rows, bias_by("token_mean")),
        bias_seq_mean=matrix(rows, bias_by("seq_mean_token_mean")),
        large=matrix(
            [row for row in rows if row.large], lambda row: interval(row.large) if row.large else ""
        ),
        noise=matrix(rows, lambda row: f"{row.small.noise:.2f}"),
    )


def record(row: Row) -> dict[str, Any]:
    """Collect every number of a row."""
    numbers = {
        key: asdict(value) for key in ("discounted", "large") if (value := getattr(row, key))
    }
    exact = {name: asdict(found) for name, found in row.by.items()}
    what = {"problem": row.problem, "credit": row.setting.config, "critic": row.setting.critic}
    return {**what, "exact": exact, **numbers}


def main() -> None:
    """Measure everything, and print the tables or every number."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print every number")
    parser.add_argument("--write-docs", action="store_true", help=f"write {PAGE.name}")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        rows = [row for problem in PROBLEMS for row in biases.measure(problem, SETTINGS)]
        chosen = [row for problem in PROBLEMS for row in biases.selections(problem)]
        text = page(rows, chosen)
    if args.json:
        print(json.dumps([record(row) for row in rows] + [asdict(row) for row in chosen], indent=1))
    else:
        print(summary(rows), selections(chosen), sep="\n\n")
    if args.write_docs:
        PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
