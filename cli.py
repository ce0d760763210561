"""The front door: ``turnrl envs | check | play | eval | train | probe | methods | report``.

Answers go to standard output (pure JSON with --json), progress to standard error. A user's mistake is one sentence and
exit code 2; a check that fails is exit code 1. Every command imports what it needs when it runs.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .plugins import UserError

# Newer releases of typer carry their own copy of click, so the base of all usage errors is found through typer.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="turnrl",
    help="Train and evaluate LLM agents over many turns.\n\nStart with: turnrl play textworld/coin-v0",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Params = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Parameters of the environment, e.g. level=5.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON on standard output.")]
Split = Annotated[str, typer.Option(help="train, valid or test.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="Sampling temperature of a language model; 0 is greedy.")]
MaxTurns = Annotated[int, typer.Option(min=1, help="Turn limit; a checkpoint brings its own.")]
Imports = Annotated[
    list[str] | None,
    typer.Option("--import", metavar="MODULE", help="Module or .py file that registers your environments."),
]
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML recipe.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to it, e.g. rl.steps=20 seed=1.")
]


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code: 0, 1 for a failed check, 2 for a user's mistake."""
    try:
        code = app(args=list(arguments), prog_name="turnrl", standalone_mode=False)
        sys.stdout.flush()
    except (UserError, _UsageError) as error:
        sentence = getattr(error, "format_message", error.__str__)()
        if sentence:
            print(f"turnrl: {' '.join(sentence.split())}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("turnrl: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has left (| head): the interpreter must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def parse_params(pairs: Sequence[str] | None) -> dict[str, Any]:
    """``["level=5"]`` as ``{"level": 5}``; values are read as YAML. Raises UserError."""
    import yaml

    params: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", key):
            raise UserError(f"'{pair}' is not a parameter: write key=value, e.g. level=5")
        if key in params:
            raise UserError(f"the parameter '{key}' is given twice")
        try:
            params[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"the value of '{pair}' is not valid YAML") from None
    return params


def _answer(data: Any) -> None:
    """Data on standard output, and nothing else there."""
    print(json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False))


def _finite(data: Any) -> Any:
    """JSON knows no NaN and no infinity: they become null."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _aside() -> contextlib.redirect_stdout[Any]:
    """While something is computed, whatever is printed (progress bars too) goes to standard error."""
    return contextlib.redirect_stdout(sys.stderr)


def _import(modules: Sequence[str] | None) -> None:
    if modules:
        from .envs.registry import import_worlds

        import_worlds(*modules)


def _fields(values: dict[str, Any]) -> str:
    return " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())


@app.command()
def envs(
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Show one environment in detail.")] = None,
    params: Params = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """List the environments, or describe one.

    Example: turnrl envs textworld/coin-v0 level=5
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from .catalogue import environment, environments

    _import(imports)
    found = [environment(id, **parse_params(params))] if id else environments()
    if as_json:
        return _answer(found[0] if id else found)
    console = Console()
    if id:
        one = found[0]
        console.print(Text(id, style="bold"), f"needs {one['extra'] or 'nothing extra'}")
        console.print(Text(f"parameters: {_fields(one['parameters']) or 'none'}\nsplits: {_fields(one['splits'])}"))
        return console.print(Text(f"\n{one['instructions']}"))
    table = Table("id", "needs", "parameters", box=None, pad_edge=False)
    for one in found:
        extra = one["extra"] + ("" if one["installed"] else f": pip install 'turnrl[{one['extra']}]'")
        table.add_row(one["id"], Text(extra), Text(_fields(one["parameters"])))
    return console.print(table)


@app.command()
def check(
    id: Annotated[str, typer.Argument(metavar="ID", help="A registered environment.")],
    params: Params = None,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks to play, taken from all splits.")] = 3,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Test that an environment keeps the contract of text environments. Exit code 1 if it does not.

    Example: turnrl check my/env-v0 size=3 --import my_env.py
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.text import Text

    from .envs.check import check_env

    with _aside():
        report = check_env(id, params=parse_params(params), tasks=tasks, report=True, imports=imports or ())
    if as_json:
        _answer({"id": id, "ok": report.ok, "results": [asdict(result) for result in report.results]})
    else:
        console = Console(highlight=False)
        for result in report.results:
            style = {"ok": "green", "skipped": "yellow"}.get(result.status, "bold red")
            detail = f": {result.detail}" if result.detail else ""
            console.print(Text.assemble((f"{result.status:8}", style), f"{result.name}{detail}"))
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def play(
    id: Annotated[str, typer.Argument(metavar="ID", help="A registered environment.")],
    params: Params = None,
    agent: Annotated[str, typer.Option(help="human, random, expert, or the folder of a run or checkpoint.")] = "human",
    seed: Annotated[int, typer.Option(min=0, help="Which task of the split.")] = 0,
    split: Split = "train",
    max_turns: MaxTurns = 50,
    temperature: Temperature = 1.0,
    imports: Imports = None,
) -> None:
    """Play one episode in the terminal, or watch one.

    Example: turnrl play textworld/coin-v0 level=5 --agent expert
    """
    from rich.console import Console

    from .terminal import play_in_terminal

    _import(imports)
    console = Console(highlight=False)
    episode = play_in_terminal(
        id, agent, params=parse_params(params), split=split, seed=seed, max_turns=max_turns,
        temperature=temperature, console=console, imports=imports or (),
    )  # fmt: skip
    if episode is None:
        return console.print("\nGoodbye.")
    console.print(f"[bold]{episode.stop.value}[/] after {len(episode.turns)} turns")
    if episode.stop.failed:
        console.print(episode.error or "", markup=False)
        raise typer.Exit(1)
    return None


@app.command(name="eval")
def evaluate(
    target: Annotated[str, typer.Argument(metavar="ID|RUN", help="An environment, or the folder of a run.")],
    params: Params = None,
    agent: Annotated[
        str | None, typer.Option(help="random, expert, or the folder of a run or checkpoint (default: RUN, or random).")
    ] = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="Tasks, each once (default: all, at most 100).")] = None,
    split: Split = "test",
    seed: Seed = 0,
    temperature: Temperature = 1.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Episodes played at once.")] = 64,
    max_turns: MaxTurns = 50,
    output: Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")] = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Measure the success rate of an agent, with its 95 % interval.

    Example: turnrl eval textworld/coin-v0 level=5 --agent runs/coin --tasks 60
    """
    from rich.console import Console

    from .agents.evaluate import evaluate as measure
    from .envs import env_ids

    _import(imports)
    env, values = target, parse_params(params)
    if target not in env_ids() and Path(target).exists():
        env, values = _env_of(Path(target), values)
        agent = agent or target
    if output is not None and not output.absolute().parent.is_dir():
        raise UserError(f"cannot write '{output}': the folder {output.absolute().parent} does not exist")
    with _aside():
        result = measure(
            env, agent or "random", params=values, split=split, tasks=tasks, seed=seed, temperature=temperature,
            concurrency=concurrency, max_turns=max_turns, progress=sys.stderr.isatty(),
            imports=imports or (),
        )  # fmt: skip
    data = result.model_dump(mode="json")
    if output is not None:
        output.write_text(json.dumps(data, indent=2) + "\n", "utf-8")
    if as_json:
        return _answer(data)
    return Console().print(result.table())


def _env_of(run_folder: Path, params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Environment id and parameters of a run, the latter overridden by `params`. Raises UserError."""
    from .training.recipe import Recipe

    file = run_folder / "recipe.yaml"
    if not file.is_file():
        raise UserError(f"'{run_folder}' is not the folder of a run: it holds no recipe.yaml")
    recipe = Recipe.load(file)
    return recipe.env_id, recipe.env_params | params


@app.command()
def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option("--run", metavar="DIR", help="Folder of the run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of the run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")] = False,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Train an agent as a recipe says.

    Example: turnrl train recipes/quickstart.yaml rl.steps=20 --run runs/mine
    """
    import yaml

    from .training.recipe import Recipe
    from .training.run import plan
    from .training.run import train as start

    _import(imports)
    loaded, progress = Recipe.load(recipe, overrides or ()), sys.stderr.isatty()
    with _aside():
        result = plan(loaded) if dry_run else start(loaded, run_dir=run_dir, resume=resume, progress=progress)
    if as_json:
        return _answer(result)
    return print(yaml.safe_dump(result, sort_keys=False, allow_unicode=True).rstrip())


@app.command()
def probe(
    recipe: RecipeFile,
    overrides: Overrides = None,
    tasks: Annotated[int, typer.Option(min=1, help="Training tasks that everyone plays, at most.")] = 8,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Test whether the rewards of a recipe pay scripted cheats like an honest winner. Exit code 1 if they do.

    Example: turnrl probe recipes/quickstart.yaml --tasks 4
    """
    from rich.console import Console

    from .training.probe import probe as measure
    from .training.recipe import Recipe

    _import(imports)
    loaded = Recipe.load(recipe, overrides or ())
    with _aside():
        found = measure(loaded, tasks=tasks, progress=sys.stderr.isatty())
    _answer(found.model_dump(mode="json")) if as_json else Console().print(found.table())
    if found.exploits:
        raise typer.Exit(1)


@app.command()
def methods(
    wanted: Annotated[str | None, typer.Argument(metavar="[SLOT|NAME]", help="E.g. credit, or grpo.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the methods of every slot with their fields.

    Example: turnrl methods credit
    """
    from rich.console import Console
    from rich.text import Text

    from .catalogue import methods as describe

    found = describe(wanted)
    if as_json:
        return _answer(found)
    console, slot = Console(highlight=False, soft_wrap=True), ""
    for one in found:
        if one["slot"] != slot:
            slot = one["slot"]
            console.print(Text(f"\n{slot}", style="bold underline"))
        console.print(Text.assemble((f"  {one['name']}", "bold cyan"), f"  {one['summary']}"))
        if wanted is None:
            continue
        for label, value in (("from", one["paper"]), ("requires", ", ".join(one["requires"]))):
            if value:
                console.print(Text(f"      {label}: {value}", style="dim"))
        for field in one["fields"]:
            default = json.dumps(field["default"])
            console.print(Text(f"      {field['name']}: {field['type']} = {default}   {field['description']}"))
    return None


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    output: Annotated[Path | None, typer.Option(help="Where to write it (default: RUN/report.html).")] = None,
) -> None:
    """Write a run as one self-contained HTML file.

    Example: turnrl report runs/quickstart --output quickstart.html
    """
    from .training.report import write_report

    print(write_report(run_folder, output))


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if show_version:
        from . import __version__

        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
