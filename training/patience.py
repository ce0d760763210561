"""Patience: a stage that learns nothing is stopped, and says why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..foundation.errors import PluginError, RunFailed


class Patience:
    """Counts the steps in a row that taught nothing.

    Args:
        label: of the stage.
        limit: so many in a row end the stage; at most `steps` count, so that a short stage of them
            is no success.
        steps: length of the stage.
    """

    def __init__(self, label: str, limit: int, steps: int) -> None:
        self.label, self.limit, self.row = label, min(limit, steps), 0

    def after(self, step: int, cause: str) -> None:
        """Take in a step that is done.

        Args:
            step: its number, from 1.
            cause: why it taught nothing; empty if it did teach something.

        Raises:
            RunFailed: it was the last one of too many.
        """
        self.row = self.row + 1 if cause else 0
        if self.row >= self.limit:
            steps = "step" if self.row == 1 else f"{self.row} steps in a row"
            raise RunFailed(
                f"{self.label}: {steps} up to step {step} taught nothing: {cause}. What was learnt"
                " before is kept: mend the cause and go on with --resume"
                f" ({self.label}.give_up_after says how many such steps end a run)"
            )


def check_finite(model: nn.Module, when: str) -> None:
    """Raise RunFailed if a weight is NaN or infinite: such a model is never saved or played."""
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise RunFailed(
                f"the weights are not finite {when} ('{name}' holds NaN or infinity), so they are"
                " not saved: lower the learning rate (optim.lr) or max_grad_norm; the checkpoints"
                " before that are whole"
            )


@contextmanager
def enough_memory(what: str, lower: str) -> Iterator[None]:
    """Turn exhausted memory into a RunFailed that says what to lower.

    Args:
        what: the work inside the block.
        lower: the settings that it depends on.
    """
    try:
        yield
    except (MemoryError, RuntimeError, PluginError) as error:
        if not (_is_memory(error) or _is_memory(error.__cause__)):
            raise
        raise RunFailed(f"{what} needs more memory than there is: lower {lower}") from error


def _is_memory(error: BaseException | None) -> bool:
    """Tell whether an error means that memory is exhausted.

    torch raises a RuntimeError where the memory of the processor is, and one of its own for a
    GPU's.
    """
    text = str(error or "")
    known = (
        "can't allocate memory",
        "not enough memory",
        "out of memory",
        "Cannot allocate memory",
    )
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        part in text for part in known
    )
