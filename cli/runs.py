"""The commands about runs: init, train, probe, methods, report."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..foundation.errors import UserError
from .app import AsJson, Imports, Overrides, RecipeFile, answer, aside, field_line, import_modules


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Where to write; made if it is not there.")
    ] = Path(),
) -> None:
    """Write an example to start from: a world, its recipe, and the recipes of the built-in worlds.

    Example: turnrl init mine
    """
    home = Path(__file__).parents[1]
    files = {
        folder / name: home / "examples" / name for name in ("custom_env.py", "custom_env.yaml")
    }
    files |= {
        folder / "recipes" / path.name: path for path in sorted((home / "recipes").glob("*.yaml"))
    }
    for target in files:
        if os.path.lexists(target):
            raise UserError(f"'{target}' is there already: name another folder")
    try:
        (folder / "recipes").mkdir(parents=True, exist_ok=True)
        for target, source in files.items():
            target.write_bytes(source.read_bytes())
    except OSError as error:
        raise UserError(f"cannot write to '{folder}': {error.strerror}") from None
    world, recipe = folder / "custom_env.py", folder / "custom_env.yaml"
    print("\n".join(map(str, files)))
    print(
        f"\nturnrl check corridor/doors-v0 --import {world}\nturnrl train {recipe} --run"
        f" {folder / 'runs' / 'first'}"
    )


def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help="Folder of the run.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of the run.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and stop.")
    ] = False,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Train an agent as a recipe says.

    Example: turnrl train recipes/quickstart.yaml rl.steps=20 --run runs/mine
    """
    import yaml

    from ..training.plan import plan
    from ..training.recipe import Recipe
    from ..training.run import train as start

    import_modules(imports)
    loaded = Recipe.load(recipe, overrides or ()).importing(*imports or ())
    with aside():
        result = plan(loaded) if dry_run else start(loaded, run_dir=run_dir, resume=resume)
    if as_json:
        return answer(result)
    return print(yaml.safe_dump(result, sort_keys=False, allow_unicode=True).rstrip())


def probe(
    recipe: RecipeFile,
    overrides: Overrides = None,
    tasks: Annotated[
        int, typer.Option(min=1, help="Training tasks that everyone plays, at most.")
    ] = 8,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Test whether a recipe pays scripted cheats like an honest winner. Exit code 1 if it does.

    Example: turnrl probe recipes/quickstart.yaml --tasks 4
    """
    from ..foundation.terminal import Terminal
    from ..training.probe import probe as measure
    from ..training.recipe import Recipe

    import_modules(imports)
    loaded = Recipe.load(recipe, overrides or ()).importing(*imports or ())
    with aside():
        found = measure(loaded, tasks=tasks, progress=sys.stderr.isatty())
    answer(found.model_dump(mode="json")) if as_json else Terminal().print(found.table())
    if found.exploits:
        raise typer.Exit(1)


def methods(
    wanted: Annotated[
        str | None, typer.Argument(metavar="[SLOT|NAME]", help="E.g. credit, or grpo.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the methods of every slot with their fields.

    Example: turnrl methods credit
    """
    from rich.text import Text

    from ..foundation.terminal import Terminal
    from .catalogue import methods as describe

    found = describe(wanted)
    if as_json:
        return answer(found)
    console, slot = Terminal(highlight=False, soft_wrap=True), ""
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
            console.print(Text(f"      {field_line(field)}"))
    return None


def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    output: Annotated[
        Path | None, typer.Option(help="Where to write it (default: in the folder of the run).")
    ] = None,
) -> None:
    """Write a run as one self-contained HTML file.

    Example: turnrl report runs/quickstart --output quickstart.html
    """
    from ..training.run_folder.report import write_report

    print(write_report(run_folder, output))
