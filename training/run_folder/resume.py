"""The keys of a recipe that may change when a run goes on, and those that may not.

May change, because what was done stays true: how far a stage goes (`steps`, `epochs`) and how fast
(`optim`, `critic.lr`), what is evaluated, how often is evaluated and saved, where the worlds and
servers run and how much they do at once, the device, and everything in a stage that has not begun.
All else, such as the world, the model, the seed, rewards, credit and loss, belongs to a run for
good.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...foundation.errors import UserError
from ..recipe import Recipe
from .checkpoint import TrainerState
from .folder import RECIPE

MEASURE = ("evaluate.split", "evaluate.tasks", "evaluate.temperature")
"""What makes two evaluations comparable."""
FREE = re.compile(
    r"(name|threads|model\.device|engine\..+|pool\..+|evaluate\..+"
    r"|.+\.url|.+\.endpoint\.(api_key_env|timeout|retries|concurrency|requests_per_minute|cache))"
)
UNSET = object()


def changes(old: Mapping[str, Any], recipe: Recipe, state: TrainerState) -> dict[str, str]:
    """List what is new in the recipe of a run that goes on: "rl.steps 10 -> 20" by key.

    Args:
        old: the recipe as `state` has it.

    Raises:
        UserError: a key is new that may not be, or a stage ends before the step that was reached.
            It names them all.
    """
    new = recipe.model_dump(mode="json")
    begun = [stage["label"] for stage in old["stages"]][: state.stage + 1]
    if [stage.label for stage in recipe.stages][: len(begun)] != begun:
        raise UserError(f"this run began with the stages {', '.join(begun)}: these cannot change")
    before, after = flat(old), flat(new)
    found = {
        key: f"{key} {_show(before.get(key, UNSET))} -> {_show(after.get(key, UNSET))}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key, UNSET) != after.get(key, UNSET)
    }
    going_on = recipe.stages[state.stage]
    free = "" if state.parts.get("over") else going_on.changeable
    if fixed := [text for key, text in found.items() if not _may_change(key, begun, free)]:
        more = f" and {len(fixed) - 8} more" if len(fixed) > 8 else ""
        raise UserError(
            f"this run has another recipe: {'; '.join(fixed[:8])}{more} cannot change on the way;"
            f" go on with the {RECIPE} of its folder, or choose another --run"
        )
    if going_on.length is not None and going_on.length < state.step:
        raise UserError(
            f"this run has done {state.step} steps of {going_on.label}, more than"
            f" steps={going_on.length}"
        )
    return found


def flat(data: Any, where: str = "") -> dict[str, Any]:
    """Map dotted keys of nested data to what is there.

    Entries of a list go by their name, stages by their label, as in overrides, and the list holds
    the names.
    """
    leaves: dict[str, Any] = {}
    if isinstance(data, list) and data and all(isinstance(item, Mapping) for item in data):
        known_by = "label" if where == "stages" else "name"
        names = [str(item.get(known_by)) for item in data]
        if len(set(names)) == len(names) and "None" not in names:
            leaves[where] = names
            where = "" if where == "stages" else where
            data = {
                name: {key: value for key, value in item.items() if key != known_by}
                for name, item in zip(names, data, strict=True)
            }
    if not isinstance(data, Mapping):
        return {where: data}
    for key, value in data.items():
        leaves |= flat(value, f"{where}.{key}" if where else str(key))
    return leaves


def _may_change(key: str, begun: Sequence[str], free: str) -> bool:
    """Tell whether a key may change, where these stages have begun and the last frees `free`."""
    stage, _, rest = key.partition(".")
    if key == "stages" or FREE.fullmatch(key):
        return True  # the names of the stages that have begun were compared
    if stage in begun:
        return stage == begun[-1] and re.fullmatch(free, rest) is not None
    return stage not in Recipe.model_fields


def _show(value: Any) -> str:
    return "(nothing)" if value is UNSET else json.dumps(value)
