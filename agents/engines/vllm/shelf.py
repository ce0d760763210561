"""Shelf: the folder in shared memory by which weights reach a server on this machine.

It holds a model in Hugging Face format, as it was pushed last: a server that has died is started
again from there. Nothing of it is left when it is closed, or when this process ends; what a killed
process left is removed by the next shelf.
"""

from __future__ import annotations

import copy
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....foundation.files import explaining_os_errors
from ....foundation.processes import is_alive
from ...models.quiet import quiet
from ...models.save import write

if TYPE_CHECKING:
    from torch import Tensor

    from ...models.load import Loaded

_NAME = "turnrl-vllm-"
_MEMORY = Path("/dev/shm")


class Shelf:
    """Writes the weights of a model where a server finds them.

    Args:
        loaded: the trainer's model, with its tokenizer. LoRA adapters are merged into what is
            written.
        root: where the folder is made; default shared memory, or a temporary folder without it.

    Raises UserError if it cannot be written.
    """

    def __init__(self, loaded: Loaded, root: Path | None = None) -> None:
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        root = root or _root()
        _tidy(root)
        with explaining_os_errors(root):
            self.folder = Path(tempfile.mkdtemp(prefix=f"{_NAME}{os.getpid()}-", dir=root))
        self._close = weakref.finalize(self, _remove, self.folder, os.getpid())
        self._written = 0
        self.current = self._next()
        """The folder of the model as it was pushed last."""
        with explaining_os_errors(self.current):
            write(self._model, self._tokenizer, self.current)

    def put(self, weights: Mapping[str, Tensor]) -> Path:
        """Write weights beside the current ones, and return their folder, which is then current.

        Raises:
            ValueError: the model has no weight of such a name.
            UserError: they cannot be written.
        """
        model, before = self._with(weights), self.current
        folder = self._next()
        with explaining_os_errors(folder):
            _save(model, folder)
            for file in before.iterdir():
                if not (folder / file.name).exists() and ".safetensors" not in file.name:
                    os.link(file, folder / file.name)
        self.current = folder
        shutil.rmtree(before, ignore_errors=True)
        return folder

    def close(self) -> None:
        """Remove all of it."""
        self._close()

    def _next(self) -> Path:
        self._written += 1
        folder = self.folder / f"model-{self._written}"
        folder.mkdir()
        return folder

    def _with(self, weights: Mapping[str, Tensor]) -> Any:
        """Return the model if it has these weights, else a copy that is given them."""
        own = self._model.state_dict(keep_vars=True)
        for name in weights:
            if name not in own:
                raise ValueError(f"the model has no weight called '{name}'")
        if all(own[name].data_ptr() == tensor.data_ptr() for name, tensor in weights.items()):
            return self._model
        model = copy.deepcopy(self._model)
        model.load_state_dict(weights, strict=False)
        return model


def _save(model: Any, folder: Path) -> None:
    """Write the weights; adapters are merged into a copy."""
    if hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model).merge_and_unload()
    with quiet():
        model.save_pretrained(folder)


def _root() -> Path:
    shared = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK)
    return _MEMORY if shared else Path(tempfile.gettempdir())


def _tidy(root: Path) -> None:
    """Remove the shelves of processes that are no more."""
    for left in root.glob(f"{_NAME}*"):
        found = re.match(rf"{_NAME}(\d+)-", left.name)
        if found is not None and not is_alive(int(found[1])):
            shutil.rmtree(left, ignore_errors=True)


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a copy of the process, made by a fork
        shutil.rmtree(folder, ignore_errors=True)
