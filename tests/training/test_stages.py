"""Stages: several of a kind with labels and rewards, stages of one's own, and going on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from safetensors.torch import load_file
from turnrl import Recipe, UserError
from turnrl.training.run import train
from turnrl.training.run_folder.checkpoint import TrainerState
from turnrl.training.session import Session
from turnrl.training.stages.base import Stage

from ..toy_world import recipe, records
from .test_resume import DATA, plays, run

SHORT = {
    "name": "rl",
    "steps": 2,
    "tasks_per_step": 2,
    "group_size": 4,
    "checkpoint_every": 1,
    "episodes_every": 1,
    "optim": {"lr": 0.005},
}
FIRST = SHORT | {"label": "first", "rewards": [{"name": "progress"}]}
SECOND = SHORT | {
    "label": "second",
    "curriculum": {"name": "prioritized"},
    "regularizers": [{"name": "kl", "place": "reward"}],
}


def stages(*given: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return recipe(**changes) | {"stages": list(given)}


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ([SHORT, SHORT], "'rl' is listed twice: give each of these stages a label of its own"),
        ([FIRST, FIRST], "'first' is listed twice"),
        ([SHORT | {"label": "best"}], "cannot have the label 'best'"),
        ([SHORT | {"label": "pool"}], "cannot have the label 'pool'"),
        ([SHORT | {"label": "a-b"}], "training.stages 'rl': label: "),
        ([SHORT | {"rewards": [{"name": "progres"}]}], "did you mean 'progress'?"),
        ([SHORT | {"rewards": [{"name": "outcome"}] * 2}], "rewards: 'outcome' is listed twice"),
        ([FIRST | {"group_size": 1}], "first.group_size=1: credit 'grpo' compares"),
        ([SHORT | {"rewards": []}], "every weight is 0"),
    ],
)
def test_stages_that_cannot_be_are_told_in_a_sentence(
    given: list[dict[str, Any]], part: str
) -> None:
    with pytest.raises(UserError) as error:
        Recipe.parse(stages(*given))
    assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_stage_is_changed_by_its_label(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(stages(FIRST, SECOND)), "utf-8")
    changed = Recipe.load(
        file, ["second.steps=7", "first.rewards.progress.weight=3", "stages.second.updates=2"]
    )
    first, second = (stage.model_dump() for stage in changed.stages)
    assert (first["steps"], second["steps"], second["updates"]) == (2, 7, 2)
    assert first["rewards"][0]["weight"] == 3
    with pytest.raises(UserError, match="no key 'rl'"):
        Recipe.load(file, ["rl.steps=7"])


def test_a_stage_pays_its_own_rewards_or_the_recipes(tmp_path: Path) -> None:
    """And its metrics, episodes and checkpoints go by its label."""
    data = stages(FIRST, SECOND, evaluate={"every": 2, "tasks": 2, "test_tasks": 2})
    result = train(data, run_dir=tmp_path / "run", progress=False)
    lines = records(tmp_path / "run")
    paid = {
        line["stage"]: {key for key in line if key.startswith("reward/")}
        for line in lines
        if line["kind"] == "train"
    }
    assert paid == {"first": {"reward/progress"}, "second": {"reward/outcome", "reward/kl"}}
    assert [(line["stage"], line["step"]) for line in lines if line["kind"] == "test"] == [
        ("first", 2),
        ("second", 2),
    ]
    assert {"first", "second", "last"} <= {p.name for p in (tmp_path / "run/checkpoints").iterdir()}
    assert {name.rpartition("-")[0] for name in plays(tmp_path / "run")} == {
        "first",
        "second",
        "test-first",
        "test-second",
    }
    assert {"first", "second", "test-first", "test-second"} <= result["seconds"].keys()


def test_a_run_goes_on_within_and_between_stages_as_if_nothing_had_happened(tmp_path: Path) -> None:
    data = DATA | {"stages": [FIRST, SECOND | {"steps": 3}]}
    assert run(tmp_path / "whole", data)[0] == 0
    for at in ("first:2:test", "second:2:train"):
        options = ["--resume"] if (tmp_path / "run").exists() else []
        assert run(tmp_path / "run", data, "--at", at, *options)[0] == -9
    done, said = run(
        tmp_path / "run", data, "--at", "second:3:train", "--signal", "INT", "--resume"
    )
    assert (done, "interrupted at second step 3" in said) == (130, True)
    assert run(tmp_path / "run", data, "--resume")[0] == 0
    left, right = tmp_path / "run", tmp_path / "whole"
    assert records(left) == records(right)
    assert plays(left) == plays(right)
    for name in ("first", "second", "best", "last"):
        a, b = (load_file(at / "checkpoints" / name / "model.safetensors") for at in (left, right))
        assert all(torch.equal(a[key], b[key]) for key in a), name
    longer = data | {"stages": [FIRST | {"steps": 3}, SECOND | {"steps": 3}]}
    done, said = run(tmp_path / "run", longer, "--resume")
    assert done == 2
    assert "first.steps 2 -> 3 cannot change on the way" in said


def test_a_recipe_that_is_trained_twice_carries_no_memory_over(tmp_path: Path) -> None:
    made = Recipe.parse(stages(SHORT | {"curriculum": {"name": "prioritized"}}))
    for name in ("once", "again"):
        train(made, run_dir=tmp_path / name, progress=False)
    assert records(tmp_path / "once") == records(tmp_path / "again")
    assert made.stages[0].model_dump() == Recipe.parse(made.model_dump()).stages[0].model_dump()
    [stage] = made.stages
    assert stage.curriculum.state_dict() == {"rates": {}}  # type: ignore[attr-defined]


class Wait(Stage):
    """Learns nothing, slowly."""

    changeable = "steps"
    name: Literal["wait"] = "wait"
    steps: int = 2

    @property
    def length(self) -> int:
        return self.steps

    async def run(self, session: Session, index: int, state: TrainerState | None = None) -> int:
        for step in range(0 if state is None else state.step, self.steps):
            session.record(self.label, step + 1, "train", {"waited": 1.0})
            session.save("last", (index, step + 1), {"over": False})
        session.save(self.label, (index, self.steps))
        return self.steps


def test_a_stage_of_ones_own_is_one_class(tmp_path: Path) -> None:
    data = stages({"name": f"{__name__}:Wait"}, SHORT)
    train(data, run_dir=tmp_path / "run", progress=False)
    lines = records(tmp_path / "run")
    assert [line["stage"] for line in lines] == ["wait", "wait", "rl", "rl"]
    saved = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text("utf-8"))
    assert saved["stages"][0] == {"name": f"{__name__}:Wait", "label": "wait", "steps": 2}
    about = json.loads((tmp_path / "run/checkpoints/wait/manifest.json").read_text("utf-8"))
    assert about["progress"] == [0, 2]
