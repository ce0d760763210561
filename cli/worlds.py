"""The commands about worlds: envs, check, play."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .app import (
    AsJson,
    Imports,
    MaxTurns,
    Params,
    Split,
    Temperature,
    Trust,
    answer,
    aside,
    field_line,
    fields,
    import_modules,
    parse_params,
)


def envs(
    id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Show one environment in detail.")
    ] = None,
    params: Params = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """List the environments, or describe one.

    Example: turnrl envs textworld/coin-v0 level=5
    """
    from rich.table import Table
    from rich.text import Text

    from ..foundation.printable import visible
    from ..foundation.terminal import Terminal
    from .catalogue import environment, environments

    import_modules(imports)
    found = [environment(id, **parse_params(params))] if id else environments()
    if as_json:
        return answer(found[0] if id else found)
    console = Terminal()
    if id:
        one = found[0]
        console.print(Text(id, style="bold"), Text(f"needs {one['extra'] or 'nothing extra'}"))
        console.print(Text(f"parameters: {fields(one['parameters']) or 'none'}"))
        for field in one["fields"]:
            console.print(Text(f"    {field_line(field)}"), soft_wrap=True)
        console.print(Text(f"splits: {fields(one['splits'])}"))
        return console.print(Text(visible(f"\n{one['instructions']}")))
    table = Table("id", "needs", "parameters", box=None, pad_edge=False)
    for one in found:
        extra = one["extra"] + (
            "" if one["installed"] else f": pip install 'turnrl[{one['extra']}]'"
        )
        table.add_row(Text(one["id"]), Text(extra), Text(fields(one["parameters"])))
    return console.print(table)


def check(
    id: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="A registered environment, or SLOT:NAME for a method, e.g. credit:rloo.",
        ),
    ],
    params: Params = None,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks to play, taken from all splits.")] = 3,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Test that an environment, or a method, keeps its contract. Exit code 1 if it does not.

    Example: turnrl check my/env-v0 size=3 --import my_env.py
    """
    from dataclasses import asdict

    from rich.text import Text

    from ..foundation.checking import CheckResult
    from ..foundation.terminal import Terminal

    console = Terminal(file=sys.stdout, highlight=False)

    def show(name: str, result: CheckResult | None) -> None:
        """Say each result when it is there: a rule may take a minute."""
        if result is None or as_json:
            return
        style = {"ok": "green", "skipped": "yellow"}.get(result.status, "bold red")
        detail = f": {result.detail}" if result.detail else ""
        console.print(Text.assemble((f"{result.status:8}", style), f"{result.name}{detail}"))

    slot, _, method = id.partition(":")
    with aside():
        if method:
            from ..training.check.check import check_plugin

            given = {"name": method} | parse_params(params)
            report = check_plugin(slot, given, report=True, on_rule=show)
        else:
            from ..envs.check.check import check_env

            report = check_env(
                id,
                params=parse_params(params),
                tasks=tasks,
                report=True,
                imports=imports or (),
                on_rule=show,
            )
    if as_json:
        answer(
            {"id": id, "ok": report.ok, "results": [asdict(result) for result in report.results]}
        )
    if not report.ok:
        raise typer.Exit(1)


def play(
    id: Annotated[str, typer.Argument(metavar="ID", help="A registered environment.")],
    params: Params = None,
    agent: Annotated[
        str, typer.Option(help="human, random, expert, or the folder of a run or checkpoint.")
    ] = "human",
    seed: Annotated[int, typer.Option(min=0, help="Which task of the split.")] = 0,
    split: Split = "train",
    max_turns: MaxTurns = None,
    temperature: Temperature = None,
    imports: Imports = None,
    trust: Trust = False,
) -> None:
    """Play one episode in the terminal, or watch one.

    Example: turnrl play textworld/coin-v0 level=5 --agent expert
    """
    from ..foundation.terminal import Terminal
    from .terminal import play_in_terminal

    import_modules(imports)
    console = Terminal(highlight=False)
    episode = play_in_terminal(
        id,
        agent,
        params=parse_params(params),
        split=split,
        seed=seed,
        max_turns=max_turns,
        temperature=temperature,
        console=console,
        imports=imports or (),
        trust=trust,
    )
    if episode is None:
        return console.print("\nGoodbye.")
    console.print(f"[bold]{episode.stop.value}[/] after {len(episode.turns)} turns")
    if episode.stop.failed:
        console.print(episode.error or "", markup=False)
        raise typer.Exit(1)
    return None
