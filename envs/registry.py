"""Worlds by name, in Gymnasium's own registry: `gymnasium.make` and `turnrl.make` give the same
object.
"""

from __future__ import annotations

import importlib
import inspect
from importlib.metadata import entry_points
from typing import Any

import gymnasium

from ..foundation.errors import UserError, nearest
from ..foundation.importing import broken, import_named, package_of
from .core import TextEnv
from .task import Task

_FAMILIES: dict[str, str] = {}
"""id -> the extra that brings its dependencies ('' for none)."""
_loaded_plugins = False


_GYMNASIUM = frozenset(inspect.signature(gymnasium.make).parameters) - {"id", "kwargs"}
"""What Gymnasium's own `make` would take for itself, to put a wrapper around the world that nobody
steps through.
"""


def register(id: str, entry_point: str | type[TextEnv], *, extra: str = "", **params: Any) -> None:
    """Register a text environment under a versioned id such as 'guess/number-v0'.

    Args:
        id: ``namespace/name-vN``.
        entry_point: the class, or 'module:Class' to import it only when it is made.
        extra: the optional dependency group it needs, named when an import fails.
        params: parameters of the world that this id has by default.

    An id that is registered already stays as it is.

    Raises:
        UserError: the id is malformed or taken by Gymnasium, or the class is no TextEnv.
    """
    _speaks_text(entry_point, f"{id}: {getattr(entry_point, '__name__', entry_point)}")
    if id in _FAMILIES:
        return
    taken = gymnasium.registry.get(id)
    if taken is not None and taken.entry_point != entry_point:
        raise UserError(
            f"the id '{id}' is taken by an environment that is none of turnrl's: choose another"
        )
    _FAMILIES[id] = extra
    if taken is not None:
        return
    try:
        # Raw: no wrapper stands between the caller and TextEnv's own methods; check_env applies
        # Gymnasium's checker.
        gymnasium.register(
            id,
            entry_point=entry_point,
            kwargs=params,
            disable_env_checker=True,
            order_enforce=False,
        )
    except (gymnasium.error.Error, TypeError) as error:
        del _FAMILIES[id]
        problem = " ".join(str(error).split())
        raise UserError(
            f"'{id}' cannot be registered: write namespace/name-v0 ({problem})"
        ) from None


def _speaks_text(made: Any, what: str) -> None:
    """Raise UserError for an environment, or a class of environments, that is no TextEnv."""
    kind = made if isinstance(made, type) else type(made)
    if (
        isinstance(made, str)
        or issubclass(kind, TextEnv)
        or (kind is not made and not issubclass(kind, gymnasium.Env))
    ):
        return
    if issubclass(kind, gymnasium.Env):
        raise UserError(f"{what} is a gymnasium.Env that speaks no text: use turnrl.wrap")
    raise UserError(f"{what} is not a turnrl.TextEnv")


def load_plugins() -> None:
    """Import every module that other packages list under the entry-point group 'turnrl.envs'.

    The modules call `register`. What does not import is left out, with a warning that names its
    package.
    """
    global _loaded_plugins
    if not _loaded_plugins:
        _loaded_plugins = True
        for entry in entry_points(group="turnrl.envs"):
            try:
                entry.load()
            except (Exception, SystemExit) as error:
                broken(package_of(entry), f"its worlds in {entry.value}", error)


def env_ids() -> list[str]:
    """List the ids of all registered text environments, plug-ins included."""
    load_plugins()
    return sorted(_FAMILIES)


def extra_of(id: str) -> str:
    """Return the optional dependency group that an id needs, '' for none."""
    return _FAMILIES.get(id, "")


def make(id: str, **params: Any) -> TextEnv:
    """Make a registered text environment.

    Raises UserError for an unknown id, a missing extra or a bad parameter.
    """
    load_plugins()
    if not isinstance(id, str) or id not in _FAMILIES:
        raise UserError(f"no environment '{id}'; {nearest(str(id), env_ids())}")
    for key in params.keys() & _GYMNASIUM:
        raise UserError(
            f"{id}: unknown parameter '{key}'"
            + ("; did you mean 'max_turns'?" if "steps" in key else "")
        )
    try:
        creator_of(id)
        env = gymnasium.make(id, **params)
    except ImportError as error:
        if not _FAMILIES[id]:
            raise UserError(f"{id}: its world cannot be imported: {error}") from error
        raise UserError(
            f"{id} needs its extra: pip install 'turnrl[{_FAMILIES[id]}]' ({error})"
        ) from None
    except TypeError as error:
        raise UserError(f"{id}: bad parameter: {error}") from error
    except ValueError as error:
        raise UserError(f"{id}: {' '.join(str(error).split())}") from error
    world: Any = env.unwrapped
    if not isinstance(world, TextEnv):
        _speaks_text(world, f"{id}: {type(world).__name__}")
        raise UserError(f"{id}: {type(world).__name__} is not a turnrl.TextEnv")
    for key in params.keys() - {"extras", "max_turns", *type(world).Settings.model_fields}:
        raise UserError(
            f"{id}: '{key}' is a parameter of its constructor, which its Tasks would not carry:"
            " declare it in a class Settings(EnvSettings)"
        )
    return world


def creator_of(id: str) -> Any:
    """Return the class, or the function, that makes instances of an id.

    Raises ImportError where it cannot be imported.
    """
    creator: Any = gymnasium.registry[id].entry_point
    if isinstance(creator, str):
        module, _, attribute = creator.partition(":")
        if not attribute or not hasattr(importlib.import_module(module), attribute):
            raise ImportError(f"'{creator}' is no class: write module:Class")
        creator = getattr(importlib.import_module(module), attribute)
    return creator


def make_for(task: Task, **options: Any) -> TextEnv:
    """Make the environment that a Task belongs to, with the task's parameters.

    Raises UserError for what is no Task.
    """
    if not isinstance(task, Task):
        raise UserError(f"make_for takes a Task, not a {type(task).__name__}")
    return make(task.env, **{**task.params, **options})


def import_worlds(*modules: str) -> None:
    """Import user modules or ``.py`` files that register worlds (worker processes call this too).

    Raises UserError for what cannot be found or cannot be run.
    """
    for module in modules:
        try:
            import_named(module)
        except UserError as error:
            raise UserError(f"imports: {error}") from error.__cause__
