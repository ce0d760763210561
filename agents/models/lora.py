"""Low-rank adapters, through peft: an optional package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...foundation.errors import UserError
from .config import LoraConfig
from .quiet import brief

_MAMBA = ("A_log", "D", "out_proj")
"""What a Mamba layer has, under whatever name of its class."""


def need_peft() -> Any:
    """Import peft. Raises UserError where it is not installed."""
    try:
        import peft
    except ImportError:
        raise UserError(
            "LoRA needs peft, which is not installed; run: pip install 'turnrl[lora]'"
        ) from None
    return peft


def _all_linear(model: Any) -> str | list[str]:
    """Name all linear layers but the head, and but those that Mamba's kernels read themselves.

    Such a kernel takes the weight of the layer and not its output: adapters would not count.
    """
    import torch

    named = dict(model.named_modules())
    read = {
        f"{name}.out_proj"
        for name, module in named.items()
        if all(hasattr(module, part) for part in _MAMBA)
    }
    if read.isdisjoint(named):
        return "all-linear"
    head = model.get_output_embeddings()
    return [
        name
        for name, module in named.items()
        if isinstance(module, torch.nn.Linear) and module is not head and name not in read
    ]


def with_lora(model: Any, lora: LoraConfig, seed: int) -> Any:
    """Put random adapters, of this seed, into a model. Raises UserError where they do not fit."""
    import torch

    peft = need_peft()
    targets = _all_linear(model) if isinstance(lora.targets, str) else list(lora.targets)
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(model, config)
        except ValueError as error:
            raise UserError(f"model: lora: {brief(error)}") from None


def untouched_adapters(model: Any) -> bool:
    """Tell whether a model has adapters, trains nothing else, and is without them what it is.

    The second matrix of a fresh adapter is 0.
    """
    if not hasattr(model, "disable_adapter"):
        return False
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    second = [p for name, p in trained.items() if ".lora_B." in name]
    return bool(second) and (
        all(".lora_A." in name or ".lora_B." in name for name in trained)
        and not any(bool(p.any()) for p in second)
    )


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """Turn the adapters of a model off inside the block."""
    with model.disable_adapter():
        yield
