"""Save a model and its tokenizer to a folder in Hugging Face format."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...foundation.files import new_folder
from ...foundation.manifest import write_manifest
from .quiet import quiet


def not_finite(tensors: Mapping[str, Any]) -> str:
    """Name the first tensor that holds a NaN or an infinity; "" if there is none."""
    return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), "")


def save(model: Any, tokenizer: Any, folder: Path | str, *, adapters_only: bool = False) -> Path:
    """Write model and tokenizer in Hugging Face format; replace an existing folder in one rename.

    Args:
        model: a `PreTrainedModel`, or one with LoRA adapters: they are merged into a copy of the
            weights.
        tokenizer: its tokenizer.
        folder: where; parents are made.
        adapters_only: write a LoRA model's adapters alone, unmerged. They load only beside the base
            model's own path.

    Raises UserError if it cannot be written; whatever was in `folder` is then still there.
    """
    folder = Path(folder)
    with new_folder(folder) as beside:
        write(model, tokenizer, beside, adapters_only=adapters_only)
        write_manifest(beside)
    return folder


def write(model: Any, tokenizer: Any, folder: Path, *, adapters_only: bool = False) -> None:
    """Write model and tokenizer into a folder that is empty; see `save`."""
    if hasattr(model, "merge_and_unload") and not adapters_only:
        model = copy.deepcopy(model).merge_and_unload()
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
