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
from pathlib import Path
from typing import Any

import gymnasium
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..envs import SPLITS, EnvSettings, env_ids, make
from ..envs.registry import creator_of, extra_of
from ..foundation.errors import UserError, nearest
from ..foundation.plugins import SLOTS, Plugin, Slot

logger = logging.getLogger(__name__)

_LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def slots() -> dict[str, Slot[Any]]:
    """List every plug-in slot by its name: each stands in a ``base.py`` of the package."""
    home = Path(__file__).parents[1]
    for file in home.glob("[!.]*/**/base.py"):
        parts = file.relative_to(home).with_suffix("").parts
        if parts[0] in ("agents", "rewards", "training"):
            importlib.import_module(".".join(("turnrl", *parts)))
    return {slot.name: slot for slot in sorted(SLOTS.values(), key=lambda slot: slot.name)}


def methods(wanted: str | None = None) -> list[dict[str, Any]]:
    """List every plug-in, or those of one slot or name. Raises UserError for an unknown name.

    Each is ``{slot, name, summary, paper, requires, fields}``, the last as `describe_fields` says.
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
        "fields": [one for one in describe_fields(cls) if one["name"] != "name"],
    }


def describe_fields(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Describe every field of a model: ``{name, type, limits, default, description}``."""
    known = {key: field.default for key, field in model.model_fields.items() if key == "name"}
    return [
        {
            "name": key,
            "type": type_name(field.annotation),
            "limits": limits(field),
            "default": None
            if field.is_required()
            else plain(field.get_default(call_default_factory=True, validated_data=known)),
            "description": field.description or "",
        }
        for key, field in model.model_fields.items()
    ]


def limits(field: FieldInfo) -> list[str]:
    """Write the bounds of a field in words, such as 'at least 1'."""
    return [
        f"{word} {value}"
        for mark, word in _LIMITS.items()
        for item in field.metadata
        if (value := getattr(item, mark, None)) is not None and value < 2**32
    ]


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


def settings_of(id: str) -> type[EnvSettings]:
    """Return the settings of an environment; none if its class cannot be imported here."""
    try:
        settings: type[EnvSettings] = getattr(creator_of(id), "Settings", EnvSettings)
    except ImportError:
        return EnvSettings
    return settings


def environments() -> list[dict[str, Any]]:
    """List every registered environment: ``{id, extra, installed, parameters}``."""
    return [
        {
            "id": id,
            "extra": extra_of(id),
            "installed": installed(extra_of(id)),
            "parameters": {one["name"]: one["default"] for one in describe_fields(settings_of(id))}
            | plain(gymnasium.registry[id].kwargs),
        }
        for id in env_ids()
    ]


def environment(id: str, **params: Any) -> dict[str, Any]:
    """Describe one environment, with its parameters, instructions and sizes of splits.

    Raises UserError.
    """
    env = make(id, **params)
    try:
        return {
            "id": id,
            "extra": extra_of(id),
            "installed": True,
            "parameters": env.settings.model_dump(mode="json"),
            "fields": describe_fields(type(env.settings)),
            "splits": {split: len(env.tasks(split)) for split in SPLITS},
            "instructions": env.instructions,
            "reward_range": list(env.reward_range),
            "tools": env.tools,
        }
    finally:
        env.close()
