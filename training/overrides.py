"""Changes to a recipe from the command line: ``rl.steps=20 model.width=128``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import yaml

from ..foundation.errors import UserError, nearest


def override(data: dict[str, Any], text: str, keys: Collection[str]) -> None:
    """Change a recipe's data by ``a.b.c=value``; the value is read as YAML.

    Args:
        data: a recipe as plain data, which is changed.
        text: the override; its first part is one of `keys`, or the label of a stage.
        keys: the top-level keys of a recipe.

    Raises:
        UserError: it is malformed, or leads nowhere.
    """
    path, equals, raw = text.partition("=")
    if not equals or not path:
        raise UserError(f"'{text}' is not an override: write key=value, e.g. rl.steps=20")
    try:
        value = yaml.safe_load(raw)
    except (yaml.YAMLError, ValueError):  # ValueError: an impossible date
        raise UserError(f"the value of '{text}' is not valid YAML") from None
    head, *rest = path.split(".")
    stages = {_name(stage): stage for stage in _stages_of(data) if _name(stage)}
    target: Any = data
    if head in stages and head not in keys:
        target, parts = stages[head], rest
    elif head in keys:
        parts = [head, *rest]
    else:
        raise UserError(f"'{text}': no key '{head}'; {nearest(head, [*keys, *stages])}")
    if not parts:
        raise UserError(f"'{text}': name a key of the stage, e.g. {head}.steps=20")
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if isinstance(target, list):
            named = {_name(item): item for item in target if isinstance(item, dict)}
            if last or (part not in named and not (part.isdigit() and int(part) < len(target))):
                raise UserError(
                    f"'{text}': '{part}' is not in the list; {nearest(part, list(named))}"
                )
            target = named[part] if part in named else target[int(part)]
        elif not isinstance(target, dict):
            raise UserError(f"'{text}': '{parts[i - 1]}' is a value, not a block")
        elif last:
            target[part] = value
        else:
            target = target.setdefault(part, {})


def _stages_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    """List the stages of a recipe that may be malformed; what is no block is an empty one."""
    stages = data.get("stages")
    return (
        [stage if isinstance(stage, dict) else {} for stage in stages]
        if isinstance(stages, list)
        else []
    )


def _name(item: dict[str, Any]) -> str:
    """Return the name of an entry of a list: its label if it has one, else its name."""
    return str(item.get("label") or item.get("name") or "")
