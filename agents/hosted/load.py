"""Load an agent ``openai:MODEL``: a model that plays behind an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...foundation.config import explain, keys_of
from ...foundation.errors import UserError
from ..agent import Agent
from ..engines.base import Sampling
from ..engines.openai import connect
from ..saved_agent import SavedAgent, changed_agent
from ..teachers.endpoint import Endpoint
from ..teachers.meter import Meter, ServerUse
from ..teachers.reply import shown_url
from .agent import HostedAgent
from .config import HostedConfig

PREFIX = "openai:"
MAX_TOKENS = 1024
"""Longest response where nobody says otherwise: models that reason need room."""
_OF_TOKENS = ("template", "date", "max_context")
"""What only an agent that makes its own prompts can change."""


@dataclass(frozen=True, slots=True)
class LoadedHosted:
    """A hosted agent ready to play, what it is asked with, and what counts its requests."""

    agent: Agent
    config: HostedConfig
    meter: Meter
    max_turns: int
    temperature: float
    max_context: int | None = None
    """Longest prompt plus response, in tokens, where the prompts are token ids."""

    def use(self) -> ServerUse:
        """Return what the server was asked for so far."""
        return self.meter.report(shown_url(self.config.url), self.config.model)


def load_hosted(
    name: str,
    server: Mapping[str, Any] | None,
    *,
    temperature: float | None = None,
    max_turns: int | None = None,
    changes: Mapping[str, Any] | None = None,
    concurrency: int | None = None,
) -> LoadedHosted:
    """Make the agent ``openai:MODEL``.

    Args:
        name: what it is called, with the prefix.
        server: fields of a `HostedConfig`; `url` is needed.
        temperature: of the sampling; None is 1.
        max_turns: turn limit; None is 50.
        changes: replaces keys of an `agent` block, such as ``{"parser": {"name": "tool_call"}}``;
            ``max_tokens`` is that of its sampling.
        concurrency: requests in flight at once; None is what `server` says.

    Raises:
        UserError: a field is missing or wrong, the tokenizer cannot be read, or a server that is
            sent token ids cannot be asked.
    """
    changes = changes or {}
    config = _config(name, server or {}, concurrency)
    start = SavedAgent(sampling=Sampling(max_tokens=MAX_TOKENS))
    saved = changed_agent(
        start, {**changes, **({} if max_turns is None else {"max_turns": max_turns})}
    )
    warmth = saved.sampling.temperature if temperature is None else temperature
    sampling = saved.sampling.model_copy(update={"temperature": warmth})
    meter = config.meter()
    endpoint = Endpoint(config, "player", meter)
    if config.tokenizer is None:
        if taken := sorted(changes.keys() & set(_OF_TOKENS)):
            raise UserError(
                f"{name} is sent messages, so it has no {taken[0]} to change: give its tokenizer"
            )
        hosted = HostedAgent(endpoint, saved.context, saved.parser, sampling, system=saved.system)
        return LoadedHosted(hosted, config, meter, saved.max_turns, warmth)
    tokenizer = _tokenizer(config.tokenizer)
    engine = connect(endpoint, saved.max_context)
    agent = saved.build(engine, tokenizer, sampling=sampling)
    return LoadedHosted(agent, config, meter, saved.max_turns, warmth, engine.max_context)


def _config(name: str, server: Mapping[str, Any], concurrency: int | None) -> HostedConfig:
    if "url" not in server:
        raise UserError(
            f"{name} needs the address of its server: --base-url URL, or server={{'url': URL}}"
        )
    fields = dict(server) | {"model": name.removeprefix(PREFIX)}
    fields |= {} if concurrency is None else {"concurrency": concurrency}
    try:
        return HostedConfig.model_validate(fields)
    except ValidationError as error:
        raise UserError(explain(error, "server", keys_of(HostedConfig))) from None


def _tokenizer(folder: str) -> Any:
    if not (Path(folder).expanduser() / "tokenizer_config.json").is_file():
        raise UserError(f"'{folder}' holds no tokenizer: tokenizer_config.json is missing")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(Path(folder).expanduser()), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # a damaged file can fail anywhere in the library
        raise UserError(
            f"the tokenizer in '{folder}' cannot be loaded: {str(error).splitlines()[0][:200]}"
        ) from None
