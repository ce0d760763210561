"""Checking: try the rules of a contract one after the other and report every one of them.

A suite is a table of rules by name. A rule is a function of the thing that is checked: it returns a
remark or nothing, raises AssertionError with what is wrong, or raises `Skip` with the reason why it
was not tried::

    RULES: Rules[Play] = Rules()

    @RULES.rule("expert", needs=("tasks",))
    def expert(play: Play) -> str | None: ...

    report = RULES.run(play, "my/world-v0")
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

S = TypeVar("S")


class Skip(Exception):
    """A rule cannot be tried; the message says why."""


@dataclass(frozen=True)
class CheckResult:
    """The result of one rule."""

    name: str
    status: Literal["ok", "failed", "skipped"]
    """'skipped' means that the rule was not tried; `detail` says why."""
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Tell whether the rule was tried and holds."""
        return self.status == "ok"


@dataclass
class CheckReport:
    """One result per rule, in the order of the rules."""

    subject: str
    """What was checked."""
    results: list[CheckResult] = field(default_factory=list)

    @property
    def failures(self) -> list[CheckResult]:
        """List the results of the rules that do not hold."""
        return [result for result in self.results if result.status == "failed"]

    @property
    def ok(self) -> bool:
        """Tell whether no rule failed; skipped ones do not count."""
        return not self.failures

    def __str__(self) -> str:
        lines = [f"{r.status:8}{r.name}{': ' + r.detail if r.detail else ''}" for r in self.results]
        verdict = "ok" if self.ok else f"{len(self.failures)} failed"
        return "\n".join([f"{self.subject}: {verdict}", *lines])


OnRule = Callable[[str, CheckResult | None], None]
"""Told the name of a rule before it is tried, and its result afterwards."""


def tell_nobody(name: str, result: CheckResult | None) -> None:
    """Do nothing with the progress of a check."""


@dataclass
class Rule(Generic[S]):
    """A check and the names of the rules without which it says nothing."""

    check: Callable[[S], str | None]
    needs: tuple[str, ...]


class Rules(dict[str, Rule[S]]):
    """The rules of one contract, by name, in the order in which they are tried."""

    def rule(
        self, name: str, needs: tuple[str, ...] = ()
    ) -> Callable[[Callable[[S], str | None]], Callable[[S], str | None]]:
        """Register a check under its name; it is skipped where a rule that it needs has failed."""

        def add(check: Callable[[S], str | None]) -> Callable[[S], str | None]:
            self[name] = Rule(check, needs)
            return check

        return add

    def run(
        self, subject: S, name: str, on_rule: OnRule = tell_nobody, after: OnRule = tell_nobody
    ) -> CheckReport:
        """Try every rule on a subject that is called `name`.

        Args:
            on_rule: for whoever watches.
            after: called with each result before the next rule is tried, to prepare what that
                needs.
        """
        found = CheckReport(name)
        status: dict[str, str] = {}
        for key, rule in self.items():
            on_rule(key, None)
            blocked = [need for need in rule.needs if status.get(need) == "failed"]
            if blocked:
                result = CheckResult(key, "skipped", f"needs '{blocked[0]}'")
            else:
                result = _once(_tried(key, rule, subject), found)
            status[key] = result.status
            found.results.append(result)
            after(key, result)
            on_rule(key, result)
        return found


def _once(result: CheckResult, found: CheckReport) -> CheckResult:
    """Return a result, or a skipped one if it fails for what another rule has failed for."""
    problem = result.detail.rpartition(" (")[0]
    for one in found.failures if result.status == "failed" and problem else ():
        if one.detail.rpartition(" (")[0] in result.detail:
            return CheckResult(result.name, "skipped", f"fails as '{one.name}' does")
    return result


def _tried(name: str, rule: Rule[S], subject: S) -> CheckResult:
    try:
        return CheckResult(name, "ok", rule.check(subject) or "")
    except Skip as reason:
        return CheckResult(name, "skipped", str(reason))
    except AssertionError as error:
        return CheckResult(name, "failed", str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever something broken raises is a finding, sys.exit() too
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        return CheckResult(name, "failed", f"{type(error).__name__}: {error} ({place})")
