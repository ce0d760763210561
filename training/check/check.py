"""check_plugin: does a method keep the promises of its slot? One line in your tests::

    from turnrl import check_plugin

    def test_my_credit():
        check_plugin("credit", "my_package.my_module:Mine")  # AssertionError lists what is broken

Plug-ins are asked about episodes that are made up, of every shape that a real step can have; a
stage is run twice with a tiny model. Worlds and engines have suites of their own, `check_env` and
`check_engine`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...foundation.checking import CheckReport, OnRule, Rules, tell_nobody
from ...foundation.errors import UserError, nearest
from ...foundation.plugins import Plugin, Slot
from ...rewards.base import REWARDS
from ..auxiliary.base import AUXILIARIES
from ..controllers.base import CONTROLLERS
from ..credit.base import CREDITS
from ..curriculum.base import CURRICULA
from ..diagnostics.base import DIAGNOSTICS
from ..losses.base import LOSSES
from ..modifiers.base import MODIFIERS
from ..regularizers.base import REGULARIZERS
from ..selection.base import SELECTIONS
from ..stages.base import STAGES
from . import advantages, companions, groups, objectives, stages
from .common import about

SUITES: dict[str, tuple[Slot[Any], Rules[Any]]] = {
    "rewards": (REWARDS, groups.REWARD),
    "selection": (SELECTIONS, groups.SELECTION),
    "curriculum": (CURRICULA, groups.CURRICULUM),
    "credit": (CREDITS, advantages.CREDIT),
    "modifiers": (MODIFIERS, advantages.MODIFIER),
    "losses": (LOSSES, objectives.LOSS),
    "regularizers": (REGULARIZERS, objectives.REGULARIZER),
    "auxiliary": (AUXILIARIES, companions.AUXILIARY),
    "controllers": (CONTROLLERS, companions.CONTROLLER),
    "diagnostics": (DIAGNOSTICS, companions.DIAGNOSTIC),
    "stages": (STAGES, stages.STAGE),
}
"""The slots that are checked, by the last word of their name."""


def check_plugin(
    slot: str,
    plugin: str | Mapping[str, Any] | Plugin,
    *,
    report: bool = False,
    on_rule: OnRule = tell_nobody,
) -> CheckReport:
    """Try every rule of a slot on one of its plug-ins.

    Args:
        slot: the last word of the slot's name, such as 'credit' or 'rewards'.
        plugin: a key, a path (``module:Class`` or ``file.py:Class``), ``{name: ..., fields}`` as in
            a recipe, or an instance.
        report: True to get the report whatever it says.
        on_rule: called with the name of a rule before it is tried, and with its result afterwards.

    Raises:
        AssertionError: listing all rules that do not hold, unless `report` is set.
        UserError: there is no such slot or plug-in, or a field of it is wrong.
    """
    if slot not in SUITES:
        raise UserError(f"no slot '{slot}' is checked; {nearest(slot, list(SUITES))}")
    registry, rules = SUITES[slot]
    made = registry.build({"name": plugin} if isinstance(plugin, str) else plugin)
    rules = Rules(about(registry) | rules)
    found = rules.run(made, f"{slot} '{made.name}'", on_rule)
    if found.failures and not report:
        raise AssertionError(str(found))
    return found
