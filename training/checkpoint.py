"""Checkpoints: weights in Hugging Face format that can be played, and the state that makes a resume exact."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..agents.checkpoint import SavedAgent
from ..agents.models import ModelConfig, load, replace_folder, save
from ..plugins import UserError

STATE_FILE = "trainer.pt"
ADAPTERS_FILE = "adapters.pt"
"""What a LoRA model trains, beside the merged weights that can be played."""


@dataclass(slots=True)
class TrainerState:
    """Everything beside the policy's weights."""

    stage: int
    """Index of the stage that goes on."""
    step: int
    """Steps of it that are done."""
    best: float
    """Best validation success so far, -1 for none."""
    parts: dict[str, Any]
    """state_dicts by name: optimiser, critic, reference, plug-ins, random streams."""


def write(folder: Path, model: nn.Module, tokenizer: Any, agent: SavedAgent, state: TrainerState | None = None) -> None:
    """Write a checkpoint beside its place and rename it there."""
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    save(model, tokenizer, beside)
    agent.write(beside)
    if hasattr(model, "merge_and_unload"):
        torch.save(
            {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}, beside / ADAPTERS_FILE
        )
    if state is not None:
        payload = {"stage": state.stage, "step": state.step, "best": state.best, "parts": state.parts}
        payload["weights"] = model.state_dict()
        payload["rng"] = torch.get_rng_state()
        torch.save(payload, beside / STATE_FILE)
    replace_folder(beside, folder)


def restore(folder: Path, model: nn.Module) -> None:
    """Put the weights of a checkpoint of this run into the model that it was written from."""
    adapters = folder / ADAPTERS_FILE
    if adapters.is_file():
        model.load_state_dict(torch.load(adapters, weights_only=True), strict=False)
    else:
        model.load_state_dict(load(ModelConfig(name=str(folder))).model.state_dict())


def read(folder: Path, model: nn.Module) -> TrainerState:
    """Restore weights and random state in place. Raises UserError if there is nothing to resume."""
    file = folder / STATE_FILE
    if not file.is_file():
        raise UserError(f"nothing to resume in '{folder.parent.parent}': no checkpoint was written yet")
    payload = torch.load(file, weights_only=True)
    model.load_state_dict(payload["weights"])
    torch.set_rng_state(payload["rng"])
    return TrainerState(payload["stage"], payload["step"], payload["best"], payload["parts"])
