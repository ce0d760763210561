"""The command that measures an agent: eval."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..plugins import UserError
from .app import (
    AsJson,
    Imports,
    MaxTurns,
    Params,
    Seed,
    Split,
    Temperature,
    answer,
    aside,
    import_modules,
    parse_params,
)


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

    from ..agents.evaluate import evaluate as measure
    from ..envs import env_ids

    import_modules(imports)
    env, values = target, parse_params(params)
    if target not in env_ids() and Path(target).exists():
        env, values = _env_of(Path(target), values)
        agent = agent or target
    if output is not None and not output.absolute().parent.is_dir():
        raise UserError(f"cannot write '{output}': the folder {output.absolute().parent} does not exist")
    with aside():
        result = measure(
            env, agent or "random", params=values, split=split, tasks=tasks, seed=seed, temperature=temperature,
            concurrency=concurrency, max_turns=max_turns, progress=sys.stderr.isatty(),
            imports=imports or (),
        )  # fmt: skip
    data = result.model_dump(mode="json")
    if output is not None:
        output.write_text(json.dumps(data, indent=2) + "\n", "utf-8")
    if as_json:
        return answer(data)
    return Console().print(result.table())


def _env_of(run_folder: Path, params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Environment id and parameters of a run, the latter overridden by `params`. Raises UserError."""
    from ..training.recipe import Recipe

    file = run_folder / "recipe.yaml"
    if not file.is_file():
        raise UserError(f"'{run_folder}' is not the folder of a run: it holds no recipe.yaml")
    recipe = Recipe.load(file)
    return recipe.env_id, recipe.env_params | params
