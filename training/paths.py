"""Files of the user's own that a recipe names: worlds in ``pool.imports``, plug-ins as ``name:
mine.py:MyReward``, the folder of a ``reference``.

One rule holds for all of them. A path is relative to the recipe file; on the command line
and in Python, where there is no file, it is relative to the working directory. A dotted module is
looked for on the Python path, then beside the recipe. Recipes keep absolute paths, so that a run
can be resumed and evaluated from any folder.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any


def anchored(data: dict[str, Any], base: Path) -> dict[str, Any]:
    """Make every file that a recipe's data names absolute; what is malformed stays as it is.

    Args:
        data: a recipe as plain data.
        base: the folder that relative paths start from.
    """
    found = dict(data)
    for key in ("agent", "rewards", "stages"):
        if key in found:
            found[key] = _plugins(found[key], base)
    pool = found.get("pool")
    if isinstance(pool, dict) and isinstance(pool.get("imports"), list | tuple):
        names = [
            module_file(name, base) if isinstance(name, str) else name for name in pool["imports"]
        ]
        found["pool"] = {**pool, "imports": names}
    return found


def module_file(name: str, base: Path) -> str:
    """Return a ``.py`` file as an absolute path, a dotted module as it is.

    A module that names a file beside the recipe is that file.
    """
    if name.endswith(".py"):
        return os.path.abspath(base / Path(name).expanduser())
    beside = base.joinpath(*name.split(".")).with_suffix(".py")
    if name and not _known(name.partition(".")[0]) and os.path.isfile(beside):
        return os.path.abspath(beside)
    return name


def _known(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a module that was made by hand has no spec
        return True


def _plugins(data: Any, base: Path) -> Any:
    if isinstance(data, list | tuple):
        return [_plugins(item, base) for item in data]
    if not isinstance(data, dict):
        return data
    found = {key: _plugins(value, base) for key, value in data.items()}
    reference = found.get("reference")
    if isinstance(reference, dict) and isinstance(path := reference.get("path"), str):
        found["reference"] = {**reference, "path": os.path.abspath(base / Path(path).expanduser())}
    if isinstance(name := found.get("name"), str) and ":" in name:
        module, _, attribute = name.rpartition(":")
        found["name"] = f"{module_file(module, base)}:{attribute}"
    return found
