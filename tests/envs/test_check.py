"""check_env passes a good world and names the defect of every broken one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import turnrl
from turnrl import TextEnv, UserError
from turnrl.envs.check.check import CheckReport, CheckResult, check_env
from turnrl.envs.check.rules import RULES
from turnrl.envs.registry import env_ids, import_worlds

TOYS = str(Path(__file__).with_name("toy_envs.py"))
BROKEN = str(Path(__file__).with_name("broken_envs.py"))
import_worlds(TOYS, BROKEN)
OTHER_PROCESS = {"other_process", "hash_seed"}


def defects() -> dict[str, str]:
    return next(
        module.DEFECTS
        for name, module in sys.modules.items()
        if name.startswith("turnrl_file_broken_envs")
    )


def failed(report: CheckReport) -> set[str]:
    return {result.name for result in report.failures}


def test_a_good_world_passes_every_rule() -> None:
    here = os.getcwd()
    report = check_env("toy/corridor-v0", imports=[TOYS])
    assert [result.name for result in report.results] == list(RULES)
    assert {result.status for result in report.results} == {"ok"}, str(report)
    assert os.getcwd() == here


@pytest.mark.parametrize("id", [id for id in env_ids() if id.startswith("broken/")])
def test_a_defect_is_caught_by_its_rule(id: str) -> None:
    rule = defects()[id]
    if rule in OTHER_PROCESS or rule == "task":
        report = check_env(id, report=True, imports=[BROKEN])
    elif id.startswith(("broken/sleeper", "broken/quitter")):
        return  # every rule that plays sees those: they have tests of their own
    else:
        report = check_env(lambda **options: turnrl.make(id, **options), report=True)
    assert failed(report) == {rule}, str(report)
    assert not report.ok


def test_a_step_that_hangs_is_one_finding_and_no_silence() -> None:
    heard: list[tuple[str, str]] = []

    def on_rule(name: str, result: CheckResult | None) -> None:
        heard.append((name, result.status if result else "begins"))

    report = check_env("broken/sleeper-v0", report=True, step_timeout=0.2, on_rule=on_rule)
    [failure] = report.failures
    assert failure.name == "determinism"
    assert "did not answer within 0.2 seconds" in failure.detail
    waited = [result for result in report.results if "the world hangs: step(" in result.detail]
    assert {result.status for result in waited} == {"skipped"}
    assert heard[:4] == [
        ("tasks", "begins"),
        ("tasks", "ok"),
        ("determinism", "begins"),
        ("determinism", "failed"),
    ]


def test_a_world_that_exits_is_a_finding() -> None:
    report = check_env("broken/quitter-v0", report=True)
    assert "determinism" in failed(report)
    assert "SystemExit: enough" in report.failures[0].detail


def test_every_rule_has_a_broken_world() -> None:
    assert set(defects().values()) == set(RULES)


def test_a_failure_raises_with_all_that_is_wrong() -> None:
    with pytest.raises(
        AssertionError,
        match=r"failed  expert: broken/lost-v0#\d+: the expert stops after 500 steps",
    ):
        check_env(lambda **options: turnrl.make("broken/lost-v0", **options))


def test_what_cannot_be_tried_is_skipped_and_never_ok() -> None:
    class Plain(type(turnrl.make("toy/corridor-v0"))):  # type: ignore[misc]
        def expert_action(self) -> None:
            return None

    def factory(**options: Any) -> TextEnv:
        env = Plain(**options)
        env.spec = turnrl.make("toy/corridor-v0").spec
        return env

    report = check_env(factory, report=True)
    skipped = {
        result.name: result.detail for result in report.results if result.status == "skipped"
    }
    assert set(skipped) == OTHER_PROCESS | {"task", "expert", "splits"}
    assert "register" in skipped["hash_seed"]
    assert report.ok
    assert not any(result.ok for result in report.results if result.name in skipped)


def test_a_world_unknown_elsewhere_is_skipped_with_the_way_out() -> None:
    report = check_env("toy/corridor-v0", report=True)
    result = {result.name: result for result in report.results}["other_process"]
    assert result.status == "skipped"
    assert "imports=" in result.detail


def test_parameters_reach_the_world() -> None:
    report = check_env("toy/corridor-v0", params={"length": 7}, imports=[TOYS], tasks=1)
    assert {result.name: result.detail for result in report.results}[
        "expert"
    ] == "wins within 8 steps"


def test_an_unknown_world_is_a_user_error() -> None:
    with pytest.raises(UserError, match="did you mean 'toy/corridor-v0'"):
        check_env("toy/corridors-v0")
