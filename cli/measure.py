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
            "random, expert, the folder of a run, checkpoint or model, smollm2, the id of a model"
            " on the Hugging Face Hub, or openai:MODEL for one behind a server (default: RUN, or"
            " random)."
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
Concurrency = Annotated[
    int | None,
    typer.Option(min=1, help="Episodes played at once (default: 64, and 8 through a server)."),
]
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
BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        help="Address of the server of openai:MODEL, e.g. http://localhost:8000/v1.",
    ),
]
KeyEnv = Annotated[
    str | None,
    typer.Option(
        "--api-key-env",
        metavar="NAME",
        help="Environment variable that holds the server's API key (default: OPENAI_API_KEY).",
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help=(
            "Tokenizer of openai:MODEL: prompts are sent as token ids, which vLLM takes (default:"
            " messages are sent)."
        ),
    ),
]
BudgetTokens = Annotated[
    int | None,
    typer.Option(
        help="Tokens of prompts and responses after which a server is asked no more.",
    ),
]
BudgetUsd = Annotated[
    float | None,
    typer.Option(help="US dollars after which a server is asked no more; needs both prices."),
]
PriceIn = Annotated[
    float | None,
    typer.Option(help="US dollars per million tokens of prompts."),
]
PriceOut = Annotated[
    float | None,
    typer.Option(help="US dollars per million tokens of responses."),
]
PerMinute = Annotated[
    int | None,
    typer.Option("--requests-per-minute", help="Requests to a server in any minute, at most."),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--request-timeout",
        help="Seconds that one attempt of a request to a server may take (default: 60).",
    ),
]
Retries = Annotated[
    int | None,
    typer.Option(
        help=(
            "Further attempts where a server is slow, breaks the connection or answers 429 or 5xx"
            " (default: 4)."
        ),
    ),
]
Output = Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")]
Episodes = Annotated[
    Path | None,
    typer.Option(help="Also write every episode to this file, one JSON object a line (.jsonl.gz)."),
]


OPTIONS = ("seed", "tasks", "max_turns", "imports", "temperature", "concurrency", "device")
"""Options that are arguments of `evaluate` as they stand."""
SERVER = (
    *("url", "api_key_env", "tokenizer", "budget_tokens", "budget_usd", "price_in", "price_out"),
    *("requests_per_minute", "timeout", "retries"),
)
"""Options that are fields of a `HostedConfig`."""


def evaluate(
    target: Target,
    params: Params = None,
    agent: AgentName = None,
    tasks: Tasks = None,
    split: Split = "test",
    seed: Seed = None,
    temperature: Temperature = None,
    concurrency: Concurrency = None,
    max_turns: MaxTurns = None,
    parser: Parser = None,
    context: Context = None,
    max_tokens: MaxTokens = None,
    max_context: MaxContext = None,
    device: Device = "auto",
    url: BaseUrl = None,
    api_key_env: KeyEnv = None,
    tokenizer: Tokenizer = None,
    budget_tokens: BudgetTokens = None,
    budget_usd: BudgetUsd = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    requests_per_minute: PerMinute = None,
    timeout: Timeout = None,
    retries: Retries = None,
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
    given = dict(locals())
    options = _given(given, *OPTIONS) | {"server": _given(given, *SERVER) or None}
    settings = _settings(target, agent, split, options, trust=trust)
    settings["params"] = settings["params"] | parse_params(params)
    settings["changes"] = _changes(parser, context, max_tokens, max_context)
    _tell(_measured(settings, split, output, episodes, trust=trust), output, as_json)


def _given(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return those of the named options that were given."""
    return {name: values[name] for name in names if values[name] is not None}


def _settings(
    target: str, agent: str | None, split: str, options: dict[str, Any], *, trust: bool
) -> dict[str, Any]:
    """Return what is measured and how, as arguments of `evaluate`: options before a run's own."""
    imports = options.get("imports")
    import_modules(imports)
    defaults: dict[str, Any] = {"env": target, "agent": agent or "random", "seed": 0}
    defaults |= {"params": {}, "imports": ()}
    if (own := _protocol(target)) is not None:
        defaults |= _of_run(own, target, agent, split, trust=trust, imports=not imports)
    return defaults | options


def _measured(
    settings: dict[str, Any],
    split: str,
    output: Path | None,
    episodes: Path | None,
    *,
    trust: bool,
) -> Evaluation:
    """Measure, and write the episodes if a file is named for them."""
    from ..agents.episode import Episode, save_episodes
    from ..agents.evaluate import evaluate as measure

    for file in (output, episodes):
        if file is not None:
            creatable(file)
    played: list[Episode] = []
    with aside():
        result = measure(
            **settings,
            split=split,
            trust=trust,
            episodes=played,
            progress=sys.stderr.isatty(),
        )
    if episodes is not None:
        save_episodes(episodes, played)
    return result


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

    from ..agents.hosted.load import PREFIX

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
        # A model behind a server has no limit of its own.
        "max_turns": own.max_turns
        if (agent or run).startswith(PREFIX)
        else own.limit_of(agent or run),
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
