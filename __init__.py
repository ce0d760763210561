"""turnrl: train and evaluate LLM agents over many turns.

    import turnrl

    env = turnrl.make("textworld/coin-v0", level=5)  # a real Gymnasium environment of text
    print(turnrl.evaluate(env="textworld/coin-v0", agent="random", tasks=60))

Importing turnrl imports neither torch nor any world: what needs them is imported when it is first
used.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# A library says nothing by itself: without a handler Python would print the warnings.
logging.getLogger(__name__).addHandler(logging.NullHandler())

_LAZY = {
    "Task": "envs.task",
    "TextEnv": "envs.core",
    "EnvSettings": "envs.settings",
    "Outcome": "envs.core",
    "TurnInfo": "envs.core",
    "make": "envs.registry",
    "make_for": "envs.registry",
    "register": "envs.registry",
    "env_ids": "envs.registry",
    "check_env": "envs.check.check",
    "check_plugin": "training.check.check",
    "check_engine": "agents.engines.check",
    "Episode": "agents.episode",
    "StopReason": "agents.episode",
    "Turn": "agents.episode",
    "evaluate": "agents.evaluate",
    "Recipe": "training.recipe",
    "probe": "training.probe",
    "train": "training.run",
    "wrap": "envs.bridges.wrap",
    "UserError": "foundation.errors",
}
__all__ = sorted(_LAZY)

if TYPE_CHECKING:
    from .agents.engines.check import check_engine as check_engine
    from .agents.episode import Episode as Episode
    from .agents.episode import StopReason as StopReason
    from .agents.episode import Turn as Turn
    from .agents.evaluate import evaluate as evaluate
    from .envs.bridges.wrap import wrap as wrap
    from .envs.check.check import check_env as check_env
    from .envs.core import Outcome as Outcome
    from .envs.core import TextEnv as TextEnv
    from .envs.core import TurnInfo as TurnInfo
    from .envs.registry import env_ids as env_ids
    from .envs.registry import make as make
    from .envs.registry import make_for as make_for
    from .envs.registry import register as register
    from .envs.settings import EnvSettings as EnvSettings
    from .envs.task import Task as Task
    from .foundation.errors import UserError as UserError
    from .training.check.check import check_plugin as check_plugin
    from .training.probe import probe as probe
    from .training.recipe import Recipe as Recipe
    from .training.run import train as train


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'turnrl' has no attribute '{name}'")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])


def _register_worlds() -> None:
    from .envs import builtin

    builtin.register_all()


_register_worlds()
