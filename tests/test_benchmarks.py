"""The comparisons of benchmarks/: a seed is one observation, nothing is chosen on test tasks."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Modules of benchmarks/, by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("arms", "sweep", "gain", "seeds", "credit", "dense", "ratio", "transfer")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    scripts = ModuleType("scripts")
    for name in names:
        setattr(scripts, name, __import__(name))
    return scripts


def results(scripts: ModuleType, won: dict[str, list[int]]) -> list[Any]:
    return [
        scripts.arms.Result(arm, seed, [0.5], count, 60, 12 + seed, 1.0, Path())
        for arm, counts in won.items()
        for seed, count in enumerate(counts)
    ]


def test_a_table_of_arms_prints_seeds_and_compares_them_pair_by_pair(scripts: ModuleType) -> None:
    Arm = scripts.arms.Arm
    arms = [Arm("first"), Arm("second", against="first"), Arm("third", against="first")]
    won = {
        "first": [27, 21, 28, 29, 24],
        "second": [56, 58, 25, 58, 52],
        "third": [28, 22, 29, 30, 26],
    }
    lines = scripts.arms.table(results(scripts, won), arms).splitlines()
    assert "won, per seed (of 60)" in lines[0]
    assert lines[2].startswith(
        "| first | 12, 13, 14, 15, 16 | 27, 21, 28, 29, 24 | 43.0% (36.2% to 49.8%) |"
    )
    # 24 of 60 games are 40 points, the interval is that of scipy.stats.ttest_rel, and p is the only
    # one above 0.05
    assert lines[3].endswith("| +40.0 (+7.9 to +72.1) to first | 0.026 | 0.125 |")
    assert lines[4].endswith("| +2.0 (+1.1 to +2.9) to first | 0.008 | 0.062 |")


def test_arms_that_played_other_tasks_do_not_stand_in_one_table(scripts: ModuleType) -> None:
    first, second = results(scripts, {"first": [1], "second": [2]})
    with pytest.raises(AssertionError, match="different numbers"):
        scripts.arms.table(
            [first, replace(second, n=59)], [scripts.arms.Arm("first"), scripts.arms.Arm("second")]
        )


def test_every_comparison_of_the_scripts_names_an_arm_with_the_same_warm_start(
    scripts: ModuleType,
) -> None:
    credit = scripts.credit.arms_of(scripts.credit.WORLDS["coin"], 2, scripts.credit.NAMES)
    for arms in (credit, scripts.dense.ARMS):
        start = {arm.name: arm.start for arm in arms}
        assert len(start) == len(arms)
        for arm in arms:
            assert arm.against is None or start[arm.against] == arm.start
    assert [arm.name for arm in credit if arm.against is None] == ["grpo, outcome"]


def test_a_learning_rate_is_chosen_without_a_test_task(
    scripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = scripts.sweep
    seen: list[dict[str, Any]] = []

    def run_of(data: dict[str, Any], folder: Path) -> Path:
        seen.append(data)
        return folder

    monkeypatch.setattr(sweep, "run_of", run_of)
    looks = [
        {"success": 0.1, "n": sweep.TASKS},
        {"success": 0.25, "n": sweep.TASKS},
    ]  # at the first step, and the last
    monkeypatch.setattr(sweep, "records", lambda run, kind: looks)
    [arm] = scripts.credit.arms_of(scripts.credit.WORLDS["coin"], 30, ["grpo, outcome"])
    untested = sweep.without_tests(arm)
    assert (
        sweep.validate(scripts.arms.QUICKSTART, untested, 1e-3, 100, 7, Path("start"), Path("runs"))
        == 15
    )
    [data] = seen
    assert (
        data["evaluate"]["test_tasks"],
        data["evaluate"]["split"],
        data["evaluate"]["every"],
    ) == (0, "valid", 7)
    [stage] = data["stages"]
    assert (stage["optim"]["lr"], stage["steps"], data["seed"]) == (1e-3, 7, 100)


def test_the_rate_that_won_most_is_chosen_and_the_smallest_of_equals(scripts: ModuleType) -> None:
    assert scripts.sweep.chosen({1e-3: 20, 2e-3: 25, 4e-3: 25}) == 2e-3
    text = scripts.sweep.table({"grpo": {1e-3: 20, 2e-3: 25}}, {"grpo": 2e-3}, 60)
    assert text.splitlines()[2] == "| grpo | 20 | **25** |"


def test_the_weights_that_a_run_tested_are_those_that_gain_plays(
    scripts: ModuleType, tmp_path: Path
) -> None:
    recipe = (
        "name: x\nenv: {id: textworld/coin-v0}\nstages: [{name: rl, steps: 1}]\nevaluate:"
        " {test_tasks: 5, every: %d}\n"
    )
    (tmp_path / "recipe.yaml").write_text(recipe % 1)
    assert scripts.gain.after_name(tmp_path, "tested") == "rl"
    (tmp_path / "checkpoints" / "best").mkdir(parents=True)
    assert scripts.gain.after_name(tmp_path, "tested") == "best"
    assert scripts.gain.after_name(tmp_path, "last") == "rl"
    (tmp_path / "recipe.yaml").write_text(recipe % 0)
    assert scripts.gain.after_name(tmp_path, "tested") == "rl"


def test_a_gain_is_taken_task_by_task(scripts: ModuleType) -> None:
    before = {"a": 0.0, "b": 1 / 3, "c": 1.0, "lost": 1.0}
    gain = scripts.gain.difference(before, {"a": 1.0, "b": 2 / 3, "c": 1.0})
    assert gain.n == 3
    assert gain.mean == pytest.approx(4 / 9)


def test_the_quickstarts_seeds_are_four_observations(scripts: ModuleType) -> None:
    before, after = (
        [{"success": won / 60, "n": 60} for won in row]
        for row in ([27, 21, 28, 29], [56, 58, 56, 58])
    )
    text = scripts.seeds.table(before, after, [0, 1, 2, 3])
    assert "| 0 | 27 of 60 | 56 of 60 |" in text
    assert text.endswith(
        "Difference: +51.2 (+40.1 to +62.4) points; p 0.001 (paired t), 0.125 (sign flips)."
    )


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The script gpu.py and its parts."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("gpu", "gpu_parts", "gpu_shapes"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return __import__("gpu"), __import__("gpu_parts")


def test_every_part_of_the_gpu_script_runs_on_a_cpu(
    gpu: tuple[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the device is the CPU, parity is exact, and the toy world is played and learnt from."""
    script, parts = gpu
    assert list(script.LONGEST) == list(parts.PARTS)
    found = {}
    for part in parts.PARTS:
        parts.main([part, "--device", "cpu", "--quick"])
        found[part] = script.lines_of(capsys.readouterr().out)
    logprobs, update, engine = found["parity"]
    assert logprobs["largest_nats"] == update["largest_difference"] == 0
    assert update["largest_step"] > 0
    assert engine["largest_nats_to_full_pass"] < 1e-5
    assert {value for key, value in engine.items() if key.startswith("same")} == {1.0}
    assert all(line["tokens_per_second"] > 0 for line in found["engine"][:-1])
    [step] = found["steps"]
    assert step["tokens/generated"] == 2 * 2 * 3 * 3, "as many as the shape says"
    assert step["engine_gap/max"] < 1e-4
    assert found["update"][0]["utilisation"] > 0
    assert [list(line["trick"]) for line in found["tricks"]][:5] == [
        *([], ["last_layer"], ["beginnings"], ["openings"], ["blocks"])
    ]
    assert found["learning"][0]["after"] is not None


def test_the_gpu_script_finds_the_tree_whatever_it_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], gpu: tuple[Any, Any]
) -> None:
    script, _ = gpu
    written = tmp_path / "gpu.json"
    done = script.main(
        ["--parts", "machine", "--device", "cpu", "--quick", "--output", str(written)]
    )
    assert done == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads(written.read_text())
    assert result["machine"]["figures"][0]["python"] == platform.python_version()


def test_what_a_part_printed_before_it_failed_is_kept(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    gpu: tuple[Any, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script, _ = gpu
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "gpu_parts.py").write_text(
        "import sys, time\n"
        "print('{\"speed\": 1}', flush=True)\n"
        "print('no figure', flush=True)\n"
        "if sys.argv[1] == 'engine':\n    raise SystemExit('out of memory')\n"
        "if sys.argv[1] == 'steps':\n    time.sleep(60)\n"
    )
    monkeypatch.setattr(script, "HERE", tmp_path / "benchmarks")
    monkeypatch.setitem(script.LONGEST, "steps", 5)
    assert script.main(["--parts", "machine", "engine", "steps"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert [part["figures"] for part in result.values()] == [[{"speed": 1}]] * 3
    assert "failed" not in result["machine"]
    assert result["engine"]["failed"] == ["out of memory"]
    assert result["steps"]["failed"] == ["stopped after 5 s"]
    script.main(["--parts", "machine", "--seconds", "1"])
    assert "no time left" in capsys.readouterr().out
