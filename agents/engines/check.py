"""check_engine: does an engine keep the contract that playing and training rely on? In a test::

    from turnrl import check_engine

    def test_my_engine():
        check_engine(MyEngine(model), vocabulary=1000)    # AssertionError lists what is broken

Each rule is a function in `turnrl.agents.engines.rules`; adding one there is all it takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...foundation.checking import CheckReport, OnRule, tell_nobody
from ...foundation.errors import UserError
from .base import Engine
from .rules import RULES
from .trial import EngineTrial

if TYPE_CHECKING:
    from torch import Tensor


def check_engine(
    engine: Engine,
    *,
    vocabulary: int,
    weights: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None = None,
    tolerance: float = 1e-4,
    limit: float = 60.0,
    report: bool = False,
    on_rule: OnRule = tell_nobody,
) -> CheckReport:
    """Try every rule on an engine that nobody else uses; what it cannot do is skipped.

    Args:
        engine: any engine; it is closed at the end.
        vocabulary: the token ids below it may be fed.
        weights: two sets that it can be given by a push, with which it answers differently.
        tolerance: largest difference, in nats, of log-probabilities that are the same but for
            rounding; half precision needs more.
        limit: seconds after which a rule is a finding.
        report: True to get the report whatever it says.
        on_rule: called with the name of a rule before it is tried, and with its result afterwards.

    Returns:
        The report; nothing is raised if `report` is set.

    Raises:
        AssertionError: listing all rules that do not hold, unless `report` is set.
        UserError: for what is no engine.
    """
    if not isinstance(engine, Engine):
        raise UserError(f"check_engine takes an Engine, not a {type(engine).__name__}")
    with asyncio.Runner() as runner:
        trial = EngineTrial(engine, vocabulary, weights, tolerance, limit, runner)
        found = RULES.run(trial, type(engine).__name__, on_rule)
        runner.run(engine.aclose())
    if found.failures and not report:
        raise AssertionError(str(found))
    return found
