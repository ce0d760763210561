"""Failures are no zeros and no successes, and a run that learns nothing stops."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor
from turnrl import Recipe
from turnrl.agents.agent import LanguageAgent
from turnrl.agents.engines.base import EngineError
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.agents.episode import Group
from turnrl.agents.models.forward import Scores
from turnrl.cli import main
from turnrl.foundation.errors import RunFailed
from turnrl.rewards.base import TurnReward
from turnrl.training.batch import TokenBatch
from turnrl.training.credit.base import Advantages, Credit
from turnrl.training.losses.base import PolicyLoss
from turnrl.training.objective import LossOutput
from turnrl.training.patience import Patience, check_finite, enough_memory
from turnrl.training.reward_table import RewardTable
from turnrl.training.run import train
from turnrl.training.run_folder.console import RunNarrator
from turnrl.training.run_folder.report import write_report
from turnrl.training.source.gather import merged

from ..logged import listening
from ..toy_world import recipe

WORLD = str(Path(__file__).parents[1] / "toy_world.py")
ALL = list(range(64))


def run(folder: Path, data: dict[str, Any]) -> list[dict[str, Any]]:
    """All lines of the metrics, also of a run that fails: its sentence is in the last one."""
    lines: list[dict[str, Any]] = []
    try:
        train(Recipe.parse(data), run_dir=folder, progress=False, on_record=lines.append)
    except RunFailed as failure:
        lines.append({"stage": "", "kind": "failed", "why": str(failure)})
    return lines


def rl(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["stage"] == "rl" and line["kind"] == "train"]


def only_rl(**changes: Any) -> dict[str, Any]:
    data = recipe(**changes)
    return data | {"stages": data["stages"][1:]}


def broken(which: Sequence[int] = ALL, fault: str = "step") -> dict[str, Any]:
    return {"id": "toy/faulty_lights-v0", "broken": list(which), "fault": fault, "length": 3}


@pytest.mark.parametrize(
    ("steps", "patience", "played"), [(5, 3, 3), (2, 3, 2), (1, 3, 1), (5, 1, 1)]
)
def test_a_run_of_lost_episodes_stops_and_says_why(
    tmp_path: Path, steps: int, patience: int, played: int
) -> None:
    env = broken(fault="reset")
    lines = run(
        tmp_path / "run",
        only_rl(env=env, rl={"steps": steps, "group_size": 2, "give_up_after": patience}),
    )
    assert len(rl(lines)) == played
    for line in rl(lines):
        assert line.keys().isdisjoint(
            {"success", "turns", "tokens", "invalid_rate", "useful_share"}
        )
        assert (line["episodes"], line["skipped"], line["lost/env_error"]) == (0, 1, 8)
    why = lines[-1]["why"]
    assert f"up to step {played} taught nothing: no episode could be learnt from" in why
    assert "ValueError: no lamp" in why
    assert "toy_world.py:" in why
    assert "--resume" in why
    assert (tmp_path / "run" / "checkpoints" / "last").is_dir()
    assert "lost episodes" in write_report(tmp_path / "run").read_text("utf-8")


def test_the_command_line_says_the_first_failure_once_and_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        json.dumps(only_rl(env=broken(fault="reset"), rl={"steps": 4, "group_size": 2}))
    )
    assert main.run(["train", str(file), "--run", str(tmp_path / "run"), "--import", WORLD]) == 1
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    [last] = [
        line for line in errors.splitlines() if line.startswith("turnrl: rl: 3 steps in a row")
    ]
    assert "(24 times env_error in toy/faulty_lights-v0" in last, (
        "8 episodes of the last step, each tried three times"
    )


def test_an_evaluation_of_lost_episodes_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "eval",
        "toy/faulty_lights-v0",
        f"broken={ALL}",
        "--agent",
        "expert",
        "--import",
        WORLD,
    ]
    assert main.run([*arguments, "--tasks", "5", "--json"]) == 1
    out, errors = capsys.readouterr()
    result = json.loads(out)
    assert (result["success"], result["n"], result["whole"], result["failed"]) == (
        None,
        0,
        False,
        {"env_error": 5},
    )
    assert (result["turns"], result["tokens"], result["invalid_rate"], result["repeated_rate"]) == (
        None,
    ) * 4
    [first] = [line for line in errors.splitlines() if "ValueError: the lamp burst" in line]
    assert first.startswith("turnrl: warning: env_error in toy/faulty_lights-v0?")
    assert "toy_world.py:" in first
    assert errors.splitlines()[-1].startswith(
        "turnrl: this is no measurement of toy/faulty_lights-v0: nothing was"
    )
    assert main.run([*arguments, "--tasks", "5"]) == 1
    assert "nothing was measured" in capsys.readouterr().out


def test_an_evaluation_that_lost_most_is_an_error_and_one_that_lost_a_few_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def measured(lost: int) -> tuple[int, str]:
        which = list(range(52, 52 + lost))
        arguments = [
            "eval",
            "toy/faulty_lights-v0",
            f"broken={which}",
            "--agent",
            "expert",
            "--import",
            WORLD,
        ]
        return main.run(arguments), capsys.readouterr().err

    assert measured(1)[0] == 0
    code, errors = measured(6)
    assert code == 1
    assert "6 of 12 episodes failed (6 env_error)" in errors
    assert "between 50.0% and 100.0%" in errors


def test_only_a_whole_evaluation_can_be_the_best(tmp_path: Path) -> None:
    """It loses 11 of 12 validation tasks; the one that is left is no measurement, won or not."""
    evaluate = {"every": 1, "split": "valid", "tasks": 12, "test_tasks": 0}
    for name, lost in (("whole", []), ("one left", range(41, 52)), ("none left", range(40, 52))):
        data = recipe(
            env=broken(list(lost), "reset"),
            evaluate=evaluate,
            rl={"steps": 1},
            sft={"validation": 1, "epochs": 1},
        )
        data["stages"] = data["stages"][1:]
        lines = run(tmp_path / name, data)
        [looked] = [line for line in lines if line["kind"] == "eval"]
        assert looked["whole"] == (name == "whole")
        assert (looked["success"] is None) == (name == "none left")
        assert (tmp_path / name / "checkpoints" / "best").is_dir() == (name == "whole")
        assert (tmp_path / name / "checkpoints" / "rl").is_dir()
        narrator = RunNarrator({"rl": 1})
        assert ("[bold]-[/bold] of 0" in narrator._text(looked)) == (name == "none left")


def test_a_test_that_measured_nothing_fails_the_run_after_everything_is_saved(
    tmp_path: Path,
) -> None:
    evaluate = {"test_tasks": 12}
    lines = run(
        tmp_path / "run",
        only_rl(env=broken(range(52, 64), "reset"), evaluate=evaluate, rl={"steps": 1}),
    )
    assert "its test measured nothing" in lines[-1]["why"]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["after"] == {"success": None, "low": 0.0, "high": 1.0, "n": 0}
    assert (tmp_path / "run" / "checkpoints" / "rl").is_dir()
    assert "not measured" in write_report(tmp_path / "run").read_text("utf-8")


def test_an_engine_that_always_fails_stops_the_run_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def generate(*arguments: Any, **options: Any) -> Any:
        raise EngineError("forward pass failed") from IndexError("index out of range in self")

    monkeypatch.setattr(TorchEngine, "_generate", generate)
    why = run(tmp_path / "run", only_rl(rl={"steps": 2}))[-1]["why"]
    assert "engine_error in toy/lights-v0" in why
    assert "IndexError: index out of range in self" in why


class Unanswered(TurnReward):
    """A judge that never answers."""

    name: Literal["unanswered"] = "unanswered"

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        return [[math.nan] * len(episode.turns) for episode in group]


class Endless(TurnReward):
    """Pays more than there is."""

    name: Literal["endless"] = "endless"

    async def __call__(
        self, group: Group, scorer: LanguageAgent | None = None
    ) -> list[list[float]]:
        return [[math.inf] * len(episode.turns) for episode in group]


class NanCredit(Credit):
    """Divides nothing by nothing."""

    name: Literal["nan"] = "nan"

    def __call__(self, rewards: RewardTable, batch: TokenBatch) -> Advantages:
        return Advantages(torch.full((batch.episodes, batch.max_turns), math.nan))


class NanLoss(PolicyLoss):
    """Has no finite gradient, but for its first `good` calls."""

    name: Literal["nan"] = "nan"
    called: ClassVar[list[int]] = []
    skips_zero: ClassVar[bool] = False
    good: int = 0

    def token_loss(self, scores: Scores, batch: TokenBatch, advantages_BL: Tensor) -> LossOutput:
        self.called.append(1)
        return LossOutput(
            -scores.logprobs_BL * (1.0 if len(self.called) <= self.good else math.nan)
        )


@pytest.mark.parametrize(
    ("changes", "stage", "why"),
    [
        (
            {"rewards": [{"name": f"{__name__}:Unanswered"}]},
            {},
            "reward 'unanswered' could not be measured",
        ),
        (
            {"rewards": [{"name": f"{__name__}:Endless"}]},
            {},
            "reward 'endless' could not be measured",
        ),
        (
            {},
            {"credit": {"name": f"{__name__}:NanCredit"}},
            "credit 'nan' and its modifiers gave advantages that",
        ),
        ({}, {"loss": {"name": f"{__name__}:NanLoss"}}, "no gradient was finite"),
    ],
)
def test_a_run_that_learns_nothing_stops(
    tmp_path: Path, changes: dict[str, Any], stage: dict[str, Any], why: str
) -> None:
    NanLoss.called.clear()
    lines = run(tmp_path / "run", only_rl(**changes, rl={"steps": 8, **stage}))
    assert len(rl(lines)) == 3
    assert why in lines[-1]["why"]
    weights = torch.load(
        tmp_path / "run" / "checkpoints" / "last" / "trainer.pt", weights_only=True
    )["weights"]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())


def test_what_was_learnt_before_is_kept(tmp_path: Path) -> None:
    NanLoss.called.clear()
    lines = run(
        tmp_path / "run",
        only_rl(rl={"steps": 9, "loss": {"name": f"{__name__}:NanLoss", "good": 2}}),
    )
    assert (
        "3 steps in a row up to step 5 taught nothing: no gradient was finite" in lines[-1]["why"]
    )
    state = torch.load(tmp_path / "run" / "checkpoints" / "last" / "trainer.pt", weights_only=True)
    assert state["step"] == 4, (
        "the checkpoint of the step before the last one, as every step writes one"
    )


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    loss = {"name": f"{__name__}:NanLoss", "good": 99}
    lines = run(tmp_path / "run", only_rl(rl={"steps": 6, "optim": {"lr": 1e39}, "loss": loss}))
    assert "the weights are not finite after step 1" in lines[-1]["why"]
    for file in (tmp_path / "run" / "checkpoints").rglob("trainer.pt"):
        weights = torch.load(file, weights_only=True)["weights"]
        assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())


def test_a_warm_start_without_a_finite_gradient_stops(tmp_path: Path) -> None:
    lines = run(tmp_path / "run", recipe(sft={"optim": {"lr": 1e38}, "epochs": 12}))
    assert lines[-1]["kind"] == "failed"
    assert "sft" in lines[-1]["why"]
    assert not (tmp_path / "run" / "checkpoints" / "sft").exists()


def test_a_step_that_lost_many_warns_of_its_survivors_once(tmp_path: Path) -> None:
    with listening() as said:
        lines = run(
            tmp_path / "run", only_rl(env=broken(range(0, 40, 2), "reset"), rl={"steps": 3})
        )
    assert any(line.get("lost/env_error", 0) > 1 and line["episodes"] > 0 for line in rl(lines))
    assert sum("what is learnt from are the survivors" in each for each in said) == 1


def test_weights_are_looked_at_by_name() -> None:
    model = torch.nn.Linear(2, 2)
    check_finite(model, "now")
    with torch.no_grad():
        model.bias[1] = math.inf
    with pytest.raises(RunFailed, match=r"not finite now \('bias' holds NaN or infinity\)"):
        check_finite(model, "now")


def test_patience_counts_steps_in_a_row() -> None:
    patience = Patience("rl", 2, 10)
    for step, cause in enumerate(("a", "", "b", "", "c"), 1):
        patience.after(step, cause)
    with pytest.raises(RunFailed, match="rl: 2 steps in a row up to step 6 taught nothing: d"):
        patience.after(6, "d")


def too_much() -> None:
    torch.empty(1 << 60)


def raises(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    "work", [too_much, raises(MemoryError()), raises(torch.OutOfMemoryError("CUDA out of memory"))]
)
def test_exhausted_memory_is_one_sentence_that_says_what_to_lower(work: Callable[[], None]) -> None:
    with (
        pytest.raises(
            RunFailed, match=r"step 3 needs more memory than there is: lower rl\.token_budget"
        ),
        enough_memory("step 3", "rl.token_budget"),
    ):
        work()


def test_other_errors_pass_the_memory_boundary() -> None:
    with pytest.raises(RuntimeError, match="shapes"), enough_memory("step 3", "it"):
        raise RuntimeError("shapes cannot be multiplied")


def test_rounds_of_which_nothing_was_measured_have_no_weight() -> None:
    lost = {"episodes": 0.0, "lost/env_error": 8.0, "retried": 16.0}
    played = {"episodes": 4.0, "success": 0.5, "retried": 0.0, "stop/won": 2.0}
    assert merged([lost, played]) == {
        "episodes": 4.0,
        "lost/env_error": 8.0,
        "retried": 16.0,
        "success": 0.5,
        "stop/won": 2.0,
    }
    assert "success" not in merged([lost, lost])


def test_a_line_of_a_step_that_was_lost_shows_no_zeros() -> None:
    said = RunNarrator({"rl": 9})._text(
        {"stage": "rl", "kind": "train", "step": 2, "episodes": 0.0, "lost/env_error": 8.0}
    )
    assert "success -, return -, entropy -, 8 episodes lost" in said
