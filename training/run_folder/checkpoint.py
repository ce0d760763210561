"""Checkpoints: weights in Hugging Face format that can be played, and the state that makes a resume
exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...agents.models.config import ModelConfig
from ...agents.models.load import load
from ...agents.models.save import not_finite
from ...agents.models.save import write as write_model
from ...agents.saved_agent import SavedAgent
from ...foundation.errors import UserError
from ...foundation.files import explaining_os_errors, new_folder
from ...foundation.manifest import MANIFEST_FILE, check_manifest, write_manifest

STATE_FILE = "trainer.pt"
ADAPTERS_FILE = "adapters.pt"
"""What a LoRA model trains, beside the merged weights that can be played."""


FORMAT = 2
"""Number of the format of a `TrainerState`, which grows whenever its parts hold something else."""

NEEDED = (
    "without it the run cannot go on; restore it from a copy, or begin again with another --run"
)


@dataclass(slots=True)
class TrainerState:
    """The state of a trainer beside the policy's weights."""

    stage: int
    """Index of the stage that goes on."""
    step: int
    """Steps of it that are done; updates of a warm start."""
    parts: dict[str, Any]
    """state_dicts by name: optimiser, critic, reference, plug-ins, random streams."""
    best: float = -1.0
    """Best validation success so far, -1 for none."""
    best_step: int = 0
    """The step whose weights are in the checkpoint 'best', 0 for none."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """The recipe, as plain data."""
    changes: list[str] = field(default_factory=list)
    """How the recipe was changed on the way, oldest first."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Spent so far, by phase."""
    format: int = FORMAT


@dataclass(slots=True)
class Saved:
    """A checkpoint to resume from, as it was read."""

    state: TrainerState
    weights: dict[str, Tensor]
    metrics: dict[str, Any]
    """See `RunLog.mark`."""


def write(
    folder: Path,
    model: nn.Module,
    tokenizer: Any,
    agent: SavedAgent,
    state: TrainerState | None = None,
    **about: Any,
) -> None:
    """Write a checkpoint beside its place and rename it there; `about` goes into its manifest.

    Raises UserError if it cannot be written, or if a number of it is not finite: the old one is
    then still there.
    """
    weights = model.state_dict()
    tensors = dict(_tensors({"weights": weights, "state": {} if state is None else state.parts}))
    if spoilt := not_finite(tensors):
        raise UserError(
            f"{spoilt} is not finite, so no checkpoint is written: '{folder}' stays as it was"
        )
    with new_folder(folder) as beside:
        write_model(model, tokenizer, beside)
        agent.write(beside)
        if hasattr(model, "merge_and_unload"):
            _write_tensors(
                beside / ADAPTERS_FILE,
                {name: p.detach() for name, p in model.named_parameters() if p.requires_grad},
            )
        if state is not None:
            _write_tensors(beside / STATE_FILE, shallow(state) | {"weights": weights})
        write_manifest(beside, **about)


def restore(folder: Path, model: nn.Module) -> None:
    """Put the weights of a checkpoint of this run into the model that it was written from."""
    adapters = folder / ADAPTERS_FILE
    if adapters.is_file():
        check_manifest(folder)
        model.load_state_dict(_read_tensors(adapters), strict=False)
    else:
        saved = load(ModelConfig(name=str(folder), device="cpu"))
        model.load_state_dict(saved.model.state_dict())


def read(folder: Path) -> Saved:
    """Read a checkpoint to resume from. Raises UserError if it is none, incomplete or damaged."""
    file = folder / STATE_FILE
    about = check_manifest(folder, NEEDED)
    for path, there in ((file, file.is_file()), (folder / MANIFEST_FILE, about is not None)):
        if not there:
            raise UserError(f"'{path}' is missing: {NEEDED}")
    payload = _read_tensors(file)
    names = {each.name for each in fields(TrainerState)}
    if (
        not isinstance(payload, dict)
        or payload.keys() != names | {"weights"}
        or payload["format"] != FORMAT
        or "metrics" not in (about or {})
    ):
        raise UserError(
            f"'{file}' was written by another version of turnrl, or is no state of a trainer"
        )
    weights = payload.pop("weights")
    return Saved(TrainerState(**payload), weights, (about or {})["metrics"])


def shallow(state: TrainerState) -> dict[str, Any]:
    """Map the names of a state's fields to their values, which are not copied."""
    return {each.name: getattr(state, each.name) for each in fields(state)}


def _write_tensors(file: Path, payload: dict[str, Any]) -> None:
    # Through a file object of Python's: what the system refuses is then told by the system's own
    # error.
    with file.open("wb") as stream:
        torch.save(payload, stream)


def _read_tensors(file: Path) -> Any:
    with explaining_os_errors(file, "read"):
        # Whoever takes a tensor over moves it to a device of its own, which may be another one than
        # it was saved from.
        return torch.load(file, map_location="cpu", weights_only=True)


def _tensors(data: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of real numbers inside nested data, with its place."""
    if isinstance(data, Tensor):
        if data.is_floating_point():
            yield name, data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(data, list | tuple):
        for index, value in enumerate(data):
            yield from _tensors(value, f"{name}.{index}")
