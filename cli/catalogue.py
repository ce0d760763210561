"""The catalogue of environments and methods as plain data, for the command line and the docs."""

from __future__ import annotations

import importlib
import inspect
import logging
import re
import types
import typing
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution, requires
from typing import Any

import gymnasium
from pydantic import BaseModel

from ..envs import SPLITS, TextEnv, env_ids, make
from ..envs.registry import extra_of
from ..foundation.errors import UserError, nearest
from ..foundation.plugins import Plugin, Slot

logger = logging.getLogger(__name__)

SLOTS = (
    "rewards",
    "training.credit",
    "training.losses",
    "training.regularizers",
    "training.modifiers",
    "training.curriculum",
    "training.selection",
    "agents.engines",
    "agents.context",
    "agents.parsers",
    "agents.tagger",
)


def slots() -> dict[str, Slot[Any]]:
    """Return every plug-in slot by its name."""
    found: dict[str, Slot[Any]] = {}
    for name in SLOTS:
        try:
            module = importlib.import_module(f"turnrl.{name}.base")
        except ModuleNotFoundError as error:
            if not f"turnrl.{name}.base".startswith(str(error.name)):
                raise
            continue
        found[name] = next(
            t for t in vars(module).values() if isinstance(t, Slot) and t.name == name
        )
    return found


def methods(wanted: str | None = None) -> list[dict[str, Any]]:
    """List every plug-in, or those of one slot or name. Raises UserError for an unknown name.

    Each is ``{slot, name, summary, paper, requires, fields: [{name, type, default,
    description}]}``.
    """
    known = slots()
    pairs = [(slot, name) for slot in known for name in known[slot].names()]
    if wanted is not None:
        words = {w for slot in known for w in (slot, slot.rpartition(".")[2])} | {
            name for _, name in pairs
        }
        if wanted not in words:
            raise UserError(
                f"no slot or method is called '{wanted}'; {nearest(wanted, sorted(words))}"
            )
        pairs = [(s, n) for s, n in pairs if wanted in (s, s.rpartition(".")[2], n)]
    found = []
    for slot, name in pairs:
        try:
            found.append(describe_method(slot, name, known[slot].get(name)))
        except UserError as error:
            if wanted == name:
                raise
            logger.warning("left out: %s", error)
    return found


def describe_method(slot: str, name: str, cls: type[Plugin]) -> dict[str, Any]:
    """Describe a plug-in class as data, read from its docstrings and its fields."""
    own = inspect.cleandoc(cls.__doc__ or "") if "__doc__" in vars(cls) else ""
    module = inspect.getdoc(inspect.getmodule(cls)) or ""
    return {
        "slot": slot,
        "name": name,
        "summary": _first_sentence(own or module),
        "paper": _paper(f"{own}\n\n{module}"),
        "requires": sorted(cls.requires),
        "fields": [
            {
                "name": key,
                "type": type_name(field.annotation),
                "default": None
                if field.is_required()
                else plain(field.get_default(call_default_factory=True)),
                "description": field.description or "",
            }
            for key, field in cls.model_fields.items()
            if key != "name"
        ],
    }


def plain(value: Any) -> Any:
    """Return `value` as JSON data; of a block what is set, without its defaults."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def type_name(annotation: Any) -> str:
    """Write a type as a user would: ``int | None``, ``'a' | 'b'``."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " | ".join(repr(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_name(part) for part in arguments)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if annotation is type(None):
        return "None"
    name = getattr(annotation, "__name__", str(annotation).removeprefix("typing."))
    inside = ", ".join("..." if part is Ellipsis else type_name(part) for part in arguments)
    return f"{name}[{inside}]" if inside else str(name)


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", paragraph, maxsplit=1)[0]


def _paper(text: str) -> str:
    """Find the paragraph that begins with "Paper:" or "Source:", without that word."""
    found = re.search(r"^(?:Papers?|Source):\s*(.+?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return " ".join(found.group(1).split()) if found else ""


def installed(extra: str) -> bool:
    """Tell whether everything that an optional dependency group asks for can be found."""
    if not extra:
        return True
    try:
        wanted = [
            line
            for line in requires("turnrl") or []
            if re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", line)
        ]
        for line in wanted:
            distribution(re.split(r"[^\w.-]", line, maxsplit=1)[0])
    except PackageNotFoundError:
        return False
    return True


def parameters(id: str) -> dict[str, Any]:
    """Return an environment's default parameters; empty if its class cannot be imported here."""
    spec = gymnasium.registry[id]
    try:
        creator: Any = spec.entry_point
        if isinstance(creator, str):
            module, _, attribute = creator.partition(":")
            creator = getattr(importlib.import_module(module), attribute)
    except ImportError:
        return {}
    found: dict[str, Any] = {}
    for cls in reversed(inspect.getmro(creator)) if isinstance(creator, type) else ():
        if cls is not TextEnv and issubclass(cls, TextEnv) and "__init__" in vars(cls):
            signature = inspect.signature(cls.__init__)
            found |= {
                p.name: plain(p.default)
                for p in signature.parameters.values()
                if p.default is not p.empty
            }
    common = inspect.signature(TextEnv.__init__).parameters
    return {name: value for name, value in (found | spec.kwargs).items() if name not in common}


def environments() -> list[dict[str, Any]]:
    """List every registered environment: ``{id, extra, installed, parameters}``."""
    return [
        {
            "id": id,
            "extra": extra_of(id),
            "installed": installed(extra_of(id)),
            "parameters": parameters(id),
        }
        for id in env_ids()
    ]


def environment(id: str, **params: Any) -> dict[str, Any]:
    """Describe one environment, with instructions, limits and sizes of splits. Raises UserError."""
    env = make(id, **params)
    try:
        return {
            "id": id,
            "extra": extra_of(id),
            "installed": True,
            "parameters": parameters(id) | plain(params),
            "splits": {split: len(env.tasks(split)) for split in SPLITS},
            "instructions": env.instructions,
            "reward_range": list(env.reward_range),
            "tools": env.tools,
        }
    finally:
        env.close()
