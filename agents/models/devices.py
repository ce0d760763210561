"""Devices: where the tensors of a model are, and what is computed there.

A device belongs to the machine, not to the model: `auto` takes what this machine has, and what was
saved on one device is loaded on any other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...foundation.errors import UserError
from .config import DEVICES, KNOWN, Bf16


def device_of(asked: str, what: str = "model.device") -> torch.device:
    """Find the device that was asked for: auto, cpu, cuda, cuda:N.

    `auto` is the first CUDA device, or the CPU where there is none. `mps` is never taken: credit,
    the weights of tokens and sampling compute in float64, which Metal has not.

    Args:
        asked: as in the `model` block of a recipe.
        what: the key that says it, for the error.

    Raises UserError for one that is not there, or that nobody knows.
    """
    if not DEVICES.fullmatch(asked):
        raise UserError(f"{what}: '{asked}' is no device: {KNOWN}")
    if asked == "mps":
        raise UserError(
            f"{what}: mps computes nothing in float64, in which credit, the weights of tokens and"
            " sampling are computed; use cpu"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "cpu" or (asked == "auto" and not count):
        return torch.device("cpu")
    index = int(asked.partition(":")[2] or 0)
    if index >= count:
        raise UserError(f"{what}: {asked} is not there: {_seen(count)}; use auto or cpu")
    return torch.device("cuda", index)


def _seen(count: int) -> str:
    """Say which CUDA devices torch sees."""
    if count:
        return f"torch sees {count} CUDA device{'s' * (count > 1)}, counted from cuda:0"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    return "torch sees no CUDA device"


def computes_bf16(asked: Bf16, device: torch.device) -> bool:
    """Tell whether updates compute in bfloat16 on a device: `auto` is where a GPU has it."""
    if asked != "auto":
        return asked
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def random_state(device: torch.device) -> Tensor | None:
    """Copy the state of a GPU's random numbers; None on the CPU, whose own is torch's."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def restore_random_state(state: Tensor | None, device: torch.device) -> None:
    """Go on from what `random_state` gave; nothing happens on another kind of device."""
    if state is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state, device)


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor of the CPU on a device, without waiting for the copy where that is a GPU.

    The copy is made from pinned memory, and what is computed next on the device waits for it.
    """
    device = torch.device(device)
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
