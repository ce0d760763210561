"""Worlds: what is there, and what happens next? Imports nothing from the rooms above."""

from .artifacts import Artifact
from .core import Outcome, TextEnv, TurnInfo
from .registry import env_ids, make, make_for, register
from .sanitise import Grammar
from .settings import EnvSettings
from .task import SPLITS, Split, Task

__all__ = [
    "SPLITS",
    "Artifact",
    "EnvSettings",
    "Grammar",
    "Outcome",
    "Split",
    "Task",
    "TextEnv",
    "TurnInfo",
    "env_ids",
    "make",
    "make_for",
    "register",
]
