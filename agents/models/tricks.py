"""Tricks: what is computed otherwise because it pays on one kind of device and not on another.

Each has the same result, up to rounding. This is the only place that says where it is used::

    if pays(tokens_BL.device).last_layer:
        ...

What pays on a CPU was measured (docs/performance.md). What pays on a GPU is what
`benchmarks/gpu.py` prints under ``tricks``; until it has run on one, the rule for GPUs is a guess:
few, large, regular kernels, and no step of the host for a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Tricks:
    """Which ways to compute pay on a device."""

    last_layer: bool
    """Compute the last layer only for tokens that somebody reads."""
    beginnings: bool
    """Encode what the rows of an update begin with in common only once."""
    openings: bool
    """Encode equal opening prompts of conversations once, and copy what is kept of them."""
    blocks: bool
    """Compute causal attention in blocks of queries."""
    encoded: int
    """Most padded tokens that the engine encodes in one forward pass."""
    logits: int
    """Most logits (tokens x vocabulary) of an update that are held at once; beyond it they are
    computed again in the backward pass.
    """
    ahead: int
    """Tokens that are sampled for each response before the host looks at them; more than 1 keeps
    the buffers of a cache where they are.
    """


CPU = Tricks(
    last_layer=True,
    beginnings=True,
    openings=True,
    blocks=True,
    encoded=4096,
    logits=1 << 23,
    ahead=1,
)
GPU = Tricks(
    last_layer=False,
    beginnings=False,
    openings=True,
    blocks=False,
    encoded=16_384,
    logits=1 << 26,
    ahead=8,
)


def pays(device: torch.device) -> Tricks:
    """Tell which tricks pay on a device."""
    return CPU if device.type == "cpu" else GPU
