"""Play a checkpoint: a Hugging Face folder with an `agent.json` beside the weights.

``agent.json`` holds a `SavedAgent`: the `agent` block of the recipe, and what else makes an
evaluation of the weights the one that the run itself made. A model without it plays with the
defaults of an `AgentConfig`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from ..foundation.config import explain, keys_of
from ..foundation.errors import UserError, nearest
from ..foundation.importing import refuse_paths
from ..foundation.manifest import MANIFEST_FILE, check_manifest, digest, read_manifest
from .agent import LanguageAgent
from .config import AgentConfig
from .engines.base import ENGINES

AGENT_FILE, CONFIG = "agent.json", "config.json"


class SavedAgent(AgentConfig):
    """The agent beside saved weights: the `agent` block of their run, and its limits."""

    max_context: int | None = Field(
        None,
        ge=16,
        description="longest prompt plus response, in tokens (default: the model's own limit)",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="arithmetic of the weights"
    )
    temperature: float | None = Field(
        None,
        ge=0,
        description="sampling temperature of the run's evaluations (default: that of `sampling`)",
    )
    max_batch: int = Field(64, ge=1, description="responses that are generated at once, at most")

    @classmethod
    def of(cls, agent: AgentConfig, **limits: Any) -> Self:
        """Add the limits of a run to its `agent` block."""
        return cls(**{name: getattr(agent, name) for name in AgentConfig.model_fields}, **limits)

    def write(self, folder: Path) -> None:
        """Write ``agent.json`` beside the weights."""
        (folder / AGENT_FILE).write_text(self.model_dump_json(indent=1), "utf-8")

    @classmethod
    def read(cls, folder: Path, *, trust: bool = False) -> Self:
        """Read the agent of a checkpoint, or the defaults for a model that no run made.

        Args:
            folder: holds the weights.
            trust: whether the file may name classes of other packages or files, whose code is then
                run.

        Raises:
            UserError: the file is damaged, or names code that is not trusted.
        """
        file = folder / AGENT_FILE
        if not file.is_file():
            if any(folder.parent.glob(f"*/{AGENT_FILE}")):  # those beside it are checkpoints
                raise UserError(f"'{folder}' is incomplete: {AGENT_FILE} is missing")
            return cls()
        try:
            data = json.loads(file.read_text("utf-8"))
            if not trust:
                # Variables of a chat template are data: only these two name plug-ins.
                named = (
                    {key: data.get(key) for key in ("context", "parser")}
                    if isinstance(data, dict)
                    else data
                )
                refuse_paths(named, str(file))
            saved = cls.model_validate(data)
        except ValidationError as error:
            raise UserError(explain(error, f"{file} is damaged", keys_of(cls))) from None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{file} is damaged: {str(error).splitlines()[0]}") from None
        return saved


@dataclass(frozen=True, slots=True)
class LoadedAgent:
    """An agent ready to play, and the protocol that it was trained and tested under."""

    agent: LanguageAgent
    max_turns: int
    max_context: int
    """Longest prompt plus response, in tokens."""
    temperature: float
    folder: Path | None
    """Where its weights are, None for a model that is no folder."""


def checkpoint_folder(path: Path) -> Path:
    """Find the folder of weights that a path means: itself, or the one of highest rank two below.

    A checkpoint has a `rank` in its manifest, a list of numbers; a run gives the highest to the
    weights that it tested. Raises UserError if there is none.
    """
    if (path / CONFIG).is_file():
        return path
    if (path / AGENT_FILE).is_file():
        raise UserError(f"'{path}' is incomplete: {CONFIG} is missing")
    found = {
        file.parent: (read_manifest(file.parent) or {}).get("rank", [])
        for file in sorted(path.glob(f"*/*/{CONFIG}"))
    }
    if not found:
        raise UserError(
            f"'{path}' is neither a checkpoint (no {CONFIG}) nor a run that has one to play"
        )
    return max(found, key=lambda folder: found[folder])


def is_model_name(name: str) -> bool:
    """Tell whether `name` may be a model that is no folder: built in, or on the Hub."""
    return name == "smollm2" or (
        name.count("/") == 1 and not name.startswith(("/", ".", "~")) and name[-1] != "/"
    )


def load_agent(
    name: str | Path,
    *,
    temperature: float | None = None,
    max_turns: int | None = None,
    changes: Mapping[str, Any] | None = None,
    trust: bool = False,
    max_batch: int | None = None,
    device: str = "auto",
) -> LoadedAgent:
    """Load the agent of a run or checkpoint folder, or a plain model, ready to play.

    Args:
        name: the folder, ``smollm2`` or the id of a model on the Hugging Face Hub.
        temperature: replaces the one that the run was evaluated with; 0 is greedy.
        max_turns: replaces the saved turn limit.
        changes: replaces keys of the saved agent, e.g. ``{"parser": {"name": "tags"},
            "max_context": 512}``; ``max_tokens`` is that of its sampling.
        trust: see `SavedAgent.read`.
        max_batch: replaces the saved number of responses generated at once.
        device: where it plays, as `model.device` of a recipe; nothing of it is saved.

    Raises:
        UserError: it cannot be found, is incomplete, or names code that is not trusted; there is no
            such device.
    """
    from .models.config import ModelConfig
    from .models.devices import device_of
    from .models.load import load

    device_of(device, "device")
    folder = checkpoint_folder(Path(name)) if Path(name).is_dir() else None
    if folder is not None:
        check_manifest(folder)
    saved = SavedAgent() if folder is None else SavedAgent.read(folder, trust=trust)
    saved = changed_agent(
        saved, {**(changes or {}), **({} if max_turns is None else {"max_turns": max_turns})}
    )
    limit = {} if saved.max_context is None else {"max_context": saved.max_context}
    loaded = load(ModelConfig(name=str(folder or name), dtype=saved.dtype, device=device, **limit))
    if temperature is None:
        temperature = saved.sampling.temperature if saved.temperature is None else saved.temperature
    config = ENGINES.build({"name": "torch", "max_batch": max_batch or saved.max_batch})
    engine = config.make(loaded, loaded.max_context if limit else None)
    sampling = saved.sampling.model_copy(update={"temperature": temperature})
    agent = saved.build(engine, loaded.tokenizer, sampling=sampling)
    return LoadedAgent(agent, saved.max_turns, engine.max_context, temperature, folder)


def load_named(name: str, others: Sequence[str], **options: Any) -> LoadedAgent:
    """Load an agent by a name that need not be one; `others` are the agents that are no models.

    It is `load_agent` after a look whether `name` can be one at all.

    Raises:
        UserError: also where there is neither such a folder nor such a name.
    """
    if not os.path.isdir(name) and not is_model_name(name):
        if os.path.exists(name):
            raise UserError(
                f"no agent '{name}': it is a file; give the folder of a run or checkpoint"
            )
        raise UserError(
            f"no agent '{name}': give the folder of a run or checkpoint, or"
            f" {nearest(name, list(others))}"
        )
    return load_agent(name, **options)


def changed_agent(saved: SavedAgent, changes: Mapping[str, Any]) -> SavedAgent:
    """Replace keys of a saved agent; ``max_tokens`` is that of its sampling. Raises UserError."""
    if not changes:
        return saved
    data = saved.model_dump() | {
        key: value for key, value in changes.items() if key != "max_tokens"
    }
    if "max_tokens" in changes:
        data["sampling"] = {**data["sampling"], "max_tokens": changes["max_tokens"]}
    try:
        return SavedAgent.model_validate(data)
    except ValidationError as error:
        raise UserError(explain(error, "agent", keys_of(SavedAgent))) from None


def fingerprint(folder: Path) -> str:
    """Compute the SHA-256 over names and contents of the files that make a model play.

    They are its weights, config, tokenizer and template.
    """
    kinds = (".json", ".jinja", ".safetensors", ".bin", ".model", ".txt")
    paths = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in kinds and path.name != MANIFEST_FILE
    ]
    lines = [f"{path.name} {digest(path)}\n" for path in paths if path.is_file()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


__all__ = [
    "AGENT_FILE",
    "LoadedAgent",
    "SavedAgent",
    "changed_agent",
    "checkpoint_folder",
    "fingerprint",
    "load_agent",
    "load_named",
]
