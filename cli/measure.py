"""The command that measures an agent: eval."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..foundation.errors import RunFailed, UserError
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
    creatable,
    import_modules,
    parse_params,
    parse_value,
)

if TYPE_CHECKING:
    from ..agents.evaluation import Evaluation
    from ..training.run_folder.protocol import Protocol

Target = Annotated[
    str, typer.Argument(metavar="ID|RUN", help="An environment, or the folder of a run.")
]
AgentName = Annotated[
    str | None,
    typer.Option(
        help=(
            "random, expert, the folder of a run, checkpoint or model, smollm2, or the id of a"
            " model on the Hugging Face Hub (default: RUN, or random)."
        )
    ),
]
Tasks = Annotated[
    int | None,
    typer.Option(
        min=1, help="Tasks, each once (default: the run's own number, or all, at most 100)."
    ),
]
Seed = Annotated[
    int | None, typer.Option(min=0, help="Random seed (default: the run's own, or 0).")
]
Concurrency = Annotated[int, typer.Option(min=1, help="Episodes played at once.")]
Parser = Annotated[
    str | None,
    typer.Option(help="Parser of a language model, as a name or as {name: ..., field: ...}."),
]
Context = Annotated[
    str | None,
    typer.Option(help="Context of a language model, as a name or as {name: ..., field: ...}."),
]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Longest response of a language model, in tokens.")
]
MaxContext = Annotated[
    int | None, typer.Option(min=16, help="Longest prompt plus response, in tokens.")
]
Device = Annotated[
    str,
    typer.Option(
        help="Where a language model plays: cpu, cuda, cuda:N, or auto for a GPU if there is one."
    ),
]
Output = Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")]
Episodes = Annotated[
    Path | None,
    typer.Option(help="Also write every episode to this file, one JSON object a line (.jsonl.gz)."),
]


def evaluate(
    target: Target,
    params: Params = None,
    agent: AgentName = None,
    tasks: Tasks = None,
    split: Split = "test",
    seed: Seed = None,
    temperature: Temperature = None,
    concurrency: Concurrency = 64,
    max_turns: MaxTurns = None,
    parser: Parser = None,
    context: Context = None,
    max_tokens: MaxTokens = None,
    max_context: MaxContext = None,
    device: Device = "auto",
    output: Output = None,
    episodes: Episodes = None,
    imports: Imports = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Measure an agent's success rate. Exit code 1 if too many episodes failed.

    A run is measured as it measured itself: its environment, limits, temperature, seed and number
    of test tasks hold unless an option says otherwise.

    Example: turnrl eval textworld/coin-v0 level=5 --agent runs/coin --tasks 60
    """
    from ..agents.episode import Episode, save_episodes
    from ..agents.evaluate import evaluate as measure

    import_modules(imports)
    for file in (output, episodes):
        if file is not None:
            creatable(file)
    played: list[Episode] = []
    options = {"seed": seed, "tasks": tasks, "max_turns": max_turns, "imports": imports}
    defaults: dict[str, Any] = {"env": target, "agent": agent or "random", "seed": 0}
    defaults |= {"params": {}, "imports": ()}
    if (own := _protocol(target)) is not None:
        defaults |= _of_run(own, target, agent, split, trust=trust, imports=not imports)
    settings = defaults | {key: value for key, value in options.items() if value is not None}
    settings["params"] = settings["params"] | parse_params(params)
    with aside():
        result = measure(
            **settings,
            split=split,
            temperature=temperature,
            concurrency=concurrency,
            trust=trust,
            device=device,
            episodes=played,
            changes=_changes(parser, context, max_tokens, max_context),
            progress=sys.stderr.isatty(),
        )
    if episodes is not None:
        save_episodes(episodes, played)
    _tell(result, output, as_json)


def _tell(result: Evaluation, output: Path | None, as_json: bool) -> None:
    """Write and print an evaluation. Raises RunFailed if too many episodes failed."""
    from ..foundation.terminal import Terminal

    data = result.model_dump(mode="json")
    if output is not None:
        output.write_text(json.dumps(data, indent=2) + "\n", "utf-8")
    answer(data) if as_json else Terminal().print(result.table())
    if not result.whole:
        raise RunFailed(f"this is no measurement of {result.env}: {result.trouble}")


def _protocol(target: str) -> Protocol | None:
    """Load the protocol of the run that a folder or checkpoint names; None for an environment."""
    from ..envs import env_ids
    from ..training.run_folder.protocol import Protocol

    folder = Path(target)
    if target in env_ids() or not folder.exists():
        return None
    return Protocol.read(folder)


def _of_run(
    own: Protocol, run: str, agent: str | None, split: str, *, trust: bool, imports: bool
) -> dict[str, Any]:
    """Return how a run measures itself, as arguments of `evaluate`.

    Raises UserError if it imports code without trust.
    """
    import torch

    torch.set_num_threads(own.threads)
    names = list(own.pool.imports) if imports else []
    if names and not trust:
        raise UserError(
            f"'{run}' imports {', '.join(names)} for its worlds: run that code with --trust, or"
            " name yours by --import"
        )
    found = {
        "env": own.env,
        "params": own.params,
        "agent": agent or run,
        "seed": own.seed,
        "imports": names,
    }
    return found | {
        "tasks": own.tasks(split),
        "max_turns": own.limit_of(agent or run),
        "pool": own.pool_arguments(),
    }


def _changes(
    parser: str | None, context: str | None, max_tokens: int | None, max_context: int | None
) -> dict[str, Any]:
    """Collect what the options change in a language model's agent."""
    named = {"parser": parser, "context": context}
    found: dict[str, Any] = {
        key: parse_value(key, text) for key, text in named.items() if text is not None
    }
    numbers = {"max_tokens": max_tokens, "max_context": max_context}
    return found | {key: number for key, number in numbers.items() if number is not None}
