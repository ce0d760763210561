"""Play a checkpoint: a Hugging Face folder with an `agent.json` beside the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..plugins import UserError
from .agent import LanguageAgent
from .config import AgentConfig

AGENT_FILE = "agent.json"


@dataclass(frozen=True, slots=True)
class LoadedAgent:
    """An agent ready to play, with the turn limit it was trained under."""

    agent: LanguageAgent
    max_turns: int


def checkpoint_folder(path: Path) -> Path:
    """The folder of weights meant by a run or checkpoint folder: best before last. Raises UserError."""
    for folder in (path, path / "checkpoints" / "best", path / "checkpoints" / "last"):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(f"'{path}' is neither a checkpoint (no config.json) nor a run that has one under checkpoints/")


def load_agent(path: Path, *, temperature: float | None = None, max_batch: int = 64) -> LoadedAgent:
    """The agent saved in a run or checkpoint folder. Raises UserError if it cannot be used.

    Args:
        temperature: replaces the saved sampling temperature.
    """
    from .engines.torch import TorchEngine
    from .models import ModelConfig, load

    folder = checkpoint_folder(path)
    file = folder / AGENT_FILE
    try:
        config = AgentConfig.model_validate_json(file.read_text("utf-8")) if file.is_file() else AgentConfig()
    except ValueError as error:
        raise UserError(f"{file} is damaged: {str(error).splitlines()[0]}") from None
    loaded = load(ModelConfig(name=str(folder)))
    sampling = (
        config.sampling if temperature is None else config.sampling.model_copy(update={"temperature": temperature})
    )
    engine = TorchEngine(loaded.model, loaded.tokenizer, max_batch=max_batch)
    return LoadedAgent(config.build(engine, loaded.tokenizer, sampling=sampling), config.max_turns)
