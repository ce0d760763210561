"""check_env: does a text environment keep the promises that training relies on? One line in your tests::

    from turnrl import check_env

    def test_my_world():
        check_env("guess/number-v0", imports=["my_package.worlds"])      # AssertionError lists what is broken

``imports`` names the modules or ``.py`` files that register the world, so that it can be replayed
in fresh processes. Each rule is a function in `turnrl.envs.check.rules`; adding one there is all it
takes.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...foundation.errors import UserError
from ..core import TextEnv
from ..registry import import_worlds, make
from ..task import SPLITS, Task
from .play import Play, Skip
from .rules import RULES

__all__ = ["CheckReport", "CheckResult", "check_env"]


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one rule."""

    name: str
    status: Literal["ok", "failed", "skipped"]
    """'skipped' means that the rule was not tried; `detail` says why."""
    detail: str = ""

    @property
    def ok(self) -> bool:
        """True only if the rule was tried and holds."""
        return self.status == "ok"


@dataclass
class CheckReport:
    """What `check_env` found, one result per rule, in order."""

    env: str
    results: list[CheckResult] = field(default_factory=list)

    @property
    def failures(self) -> list[CheckResult]:
        """The rules that do not hold."""
        return [result for result in self.results if result.status == "failed"]

    @property
    def ok(self) -> bool:
        """True if no rule failed; skipped ones do not count."""
        return not self.failures

    def __str__(self) -> str:
        lines = [f"{r.status:8}{r.name}{': ' + r.detail if r.detail else ''}" for r in self.results]
        return "\n".join(
            [f"{self.env}: {'ok' if self.ok else f'{len(self.failures)} failed'}", *lines]
        )


def check_env(
    id_or_factory: str | Callable[..., TextEnv],
    *,
    params: Mapping[str, Any] | None = None,
    tasks: int = 3,
    seed: int = 0,
    report: bool = False,
    imports: Sequence[str] = (),
    step_timeout: float = 30.0,
    reset_timeout: float = 120.0,
    on_rule: Callable[[str, CheckResult | None], None] = lambda name, result: None,
) -> CheckReport:
    """Try every rule on some tasks of an environment.

    Args:
        id_or_factory: a registered id, or a callable that makes an instance and takes ``extras``,
            ``max_turns`` and `params` as keywords. With a callable the rules about other processes
            are skipped.
        params: parameters of the family.
        tasks: how many tasks are played, taken from the three splits in turn.
        seed: of everything random here: which tasks, which actions.
        report: True to get the report whatever it says.
        imports: modules or ``.py`` files that register the world.
        step_timeout: seconds after which a step is a finding.
        reset_timeout: seconds after which a reset is one.
        on_rule: called with the name of a rule before it is tried, and with its result afterwards.

    Returns:
        the report; nothing is raised if `report` is set.

    Raises:
        AssertionError: listing all rules that do not hold, unless `report` is set.
        UserError: for an unknown id, a missing extra or a bad parameter.
    """
    if not isinstance(id_or_factory, str) and not callable(id_or_factory):
        raise UserError(
            f"check_env takes the id of a world or a callable, not a {type(id_or_factory).__name__}"
        )
    imports = [os.path.abspath(name) if name.endswith(".py") else name for name in imports]
    import_worlds(*imports)
    fixed = dict(params or {})
    id = id_or_factory if isinstance(id_or_factory, str) else ""

    def factory(**options: Any) -> TextEnv:
        options = {**fixed, **options}
        return (
            make(id_or_factory, **options)
            if isinstance(id_or_factory, str)
            else id_or_factory(**options)
        )

    factory().close()
    found = CheckReport(id or getattr(id_or_factory, "__name__", "environment"))
    home = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="turnrl-check-") as folder:
        # Worlds that write files must not do so in the caller's directory; the rule 'files' looks
        # at this one.
        os.chdir(folder)
        try:
            play = Play(
                factory, id, fixed, imports, seed, Path(folder), step_timeout, reset_timeout
            )
            _run(play, found, tasks, on_rule)
        finally:
            os.chdir(home)
    if found.failures and not report:
        raise AssertionError(str(found))
    return found


def _run(
    play: Play, found: CheckReport, count: int, on_rule: Callable[[str, CheckResult | None], None]
) -> None:
    status: dict[str, str] = {}
    for name, rule in RULES.items():
        on_rule(name, None)
        blocked = [need for need in rule.needs if status.get(need) == "failed"]
        if blocked:
            result = CheckResult(name, "skipped", f"needs '{blocked[0]}'")
        else:
            result = _once(_try(name, rule.check, play), found)
        status[name] = result.status
        found.results.append(result)
        on_rule(name, result)
        if name == "tasks" and result.ok:
            play.tasks = _sample(play, count)


def _once(result: CheckResult, found: CheckReport) -> CheckResult:
    """The result, or a skipped one if it fails for what another rule has failed for already."""
    problem = result.detail.rpartition(" (")[0]
    first = next(
        (
            one
            for one in found.failures
            if problem and one.detail.rpartition(" (")[0] in result.detail
        ),
        None,
    )
    if result.status != "failed" or first is None:
        return result
    return CheckResult(result.name, "skipped", f"fails as '{first.name}' does")


def _try(name: str, check: Callable[[Play], str | None], play: Play) -> CheckResult:
    try:
        return CheckResult(name, "ok", check(play) or "")
    except Skip as reason:
        return CheckResult(name, "skipped", str(reason))
    except AssertionError as error:
        return CheckResult(name, "failed", str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a broken world raises is a finding, sys.exit() too
        where = traceback.extract_tb(error.__traceback__)[-1]
        return CheckResult(
            name,
            "failed",
            f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})",
        )


def _sample(play: Play, count: int) -> list[Task]:
    env = play.make()
    rng = random.Random(play.seed)
    pools = {split: list(env.tasks(split)) for split in SPLITS}
    picked: list[Task] = []
    while len(picked) < count and any(pools.values()):
        pool = pools[SPLITS[len(picked) % 3]] or max(pools.values(), key=len)
        picked.append(pool.pop(rng.randrange(len(pool))))
    env.close()
    return picked


def replay_main() -> None:
    """In a fresh process: replay what stdin says and print the digests as the last line. Exit code
    3: unknown world.
    """
    order = json.load(sys.stdin)
    try:
        import_worlds(*order["imports"])
        play = Play(
            lambda **o: make(order["id"], **{**order["params"], **o}),
            order["id"],
            order["params"],
            [],
            0,
        )
        play.make().close()
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(3) from None
    for task, actions in order["episodes"]:
        play.record[Task.model_validate(task)] = actions
    print("\n" + json.dumps(play.digests()), flush=True)
