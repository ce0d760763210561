"""Import code of users and of packages, by module name or file, with one sentence on failure."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import traceback
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import UserError

logger = logging.getLogger(__name__)
FILE_MODULE = "turnrl_file_"
"""How the names of modules begin that were read from a file."""


def named_paths(data: Any) -> Iterator[str]:
    """Yield every path by which nested plain data names a class: ``name: module:Class``."""
    if isinstance(data, Mapping):
        if isinstance(name := data.get("name"), str) and ":" in name:
            yield name
        data = list(data.values())
    if isinstance(data, list | tuple):
        for item in data:
            yield from named_paths(item)


def refuse_paths(data: Any, what: str) -> None:
    """Refuse data of somebody else's that names a class by its path: its code would be run.

    Raises UserError.
    """
    for path in named_paths(data):
        raise UserError(
            f"{what} names code to run, '{path}': use --trust (trust=True) if you trust whoever"
            " wrote it"
        )


def import_named(name: str) -> ModuleType:
    """Import a module by its dotted name, or a ``.py`` file by its path, once in a process.

    Raises:
        UserError: there is none, or running it raises; the sentence says where.
    """
    with _explained(name):
        return (
            _import_file(Path(name).expanduser().resolve())
            if name.endswith(".py")
            else importlib.import_module(name)
        )


def _import_file(path: Path) -> ModuleType:
    name = f"{FILE_MODULE}{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    # Known before it runs: classes look their module up there while they are made.
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever importing a user's code raises into one sentence that says where."""
    try:
        yield
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(
            f"cannot import '{name}': {error.msg} ({error.filename}:{error.lineno})"
        ) from error
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            raise UserError(f"there is no module '{name}' on the Python path") from None
        own = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if not frame.filename.startswith("<")
        ]
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"cannot import '{name}': {problem} ({own[-1].filename}:{own[-1].lineno})"
        ) from error


def broken(package: str | None, what: str, error: BaseException) -> None:
    """Warn that something of an installed package cannot be used.

    Everything else goes on without it.
    """
    problem = " ".join(f"{type(error).__name__}: {error}".split())
    logger.warning(
        "the package '%s' is broken and left out: %s: %s", package or "unknown", what, problem
    )


def package_of(entry: EntryPoint) -> str | None:
    """Return the name of the package that offers an entry point."""
    return entry.dist.name if entry.dist is not None else entry.value.partition(":")[0]
