"""evaluate: each task once, rates with their intervals, failures in no denominator."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import turnrl
from rich.console import Console
from turnrl import UserError, evaluate
from turnrl.agents.config import AgentConfig
from turnrl.agents.episode import Episode, StopReason, Turn
from turnrl.agents.evaluate import choose_tasks
from turnrl.agents.evaluation import Evaluation, summarise, wilson
from turnrl.agents.models import tiny
from turnrl.agents.models.save import save
from turnrl.agents.play import PlayStats
from turnrl.agents.saved_agent import AGENT_FILE, load_agent
from turnrl.envs import Task
from turnrl.envs.registry import import_worlds

from ..logged import listening, logged
from ..toy_world import SEEDS
from .fake_engine import FakeEngine, agent, light, tokenizer

TOYS = str(Path(__file__).parents[1] / "envs" / "toy_envs.py")


def test_a_world_that_cannot_run_in_threads_is_played_in_processes() -> None:
    import_worlds(TOYS)
    assert evaluate("toy/outside-v0", "random", tasks=2, imports=[TOYS], progress=False).n == 2
    mixed = {"parts": [{"id": "toy/corridor-v0"}, {"id": "toy/outside-v0"}]}
    assert (
        evaluate(
            "turnrl/mixed-v0", "random", params=mixed, tasks=2, imports=[TOYS], progress=False
        ).n
        == 2
    )


def test_wilson_against_known_values() -> None:
    assert wilson(45, 50) == pytest.approx((0.786398, 0.956524), abs=1e-6)
    z2 = 1.959963984540054**2
    for n in (1, 7, 60):
        assert wilson(0, n) == pytest.approx((0.0, z2 / (n + z2)), abs=1e-12)
        assert wilson(n, n) == pytest.approx((n / (n + z2), 1.0), abs=1e-12)
        low, high = wilson(n // 2, n)
        assert 0 <= low <= (n // 2) / n <= high <= 1
    assert wilson(0, 0) == (0.0, 1.0)


def summary(episodes: list[Episode]) -> Evaluation:
    return summarise(
        episodes, PlayStats(), env="e", agent="a", split="test", seed=0, temperature=None
    )


def episode(
    actions: str,
    seen: str,
    *,
    stop: StopReason = StopReason.LOST,
    level: int = 1,
    success: bool = False,
) -> Episode:
    """One letter per action and observation; the action 'c' is refused."""
    turns = [
        Turn([], True, [1, 2], [0.0, 0.0], action=a, observation=o, valid_action=a != "c")
        for a, o in zip(actions, seen, strict=True)
    ]
    task = Task(env="toy/x-v0", params={"level": level}, seed=0)
    return Episode(task, opening="o", turns=turns, stop=stop, success=success)


def test_invalid_and_repeated_actions() -> None:
    result = summary([episode("abbc", "ppqr")])
    assert (result.invalid_rate, result.repeated_rate) == (0.25, 0.25)
    # The same action after another observation is no repetition; after an earlier one it is.
    assert summary([episode("aaa", "pqr")]).repeated_rate == 0
    assert summary([episode("aba", "pop")]).repeated_rate == pytest.approx(1 / 3)
    # What we say about a bad response is no answer of the world: another room is another room.
    elsewhere = episode("acbcb", "rxsxt")
    for t in (1, 3):
        elsewhere.turns[t].action, elsewhere.turns[t].invalid_reason = None, "unparsable"
    assert summary([elsewhere]).repeated_rate == 0
    assert summary([episode("aca", "oxo")]).repeated_rate == 0
    stuck = episode("aca", "oxo")
    stuck.turns[1].action, stuck.turns[1].invalid_reason = None, "unparsable"
    assert summary([stuck]).repeated_rate == pytest.approx(1 / 3)
    # Episodes do not remember each other.
    assert summary([episode("a", "p"), episode("a", "p")]).repeated_rate == 0


def test_lost_episodes_are_counted_and_excluded() -> None:
    played = [
        episode("ab", "pq", stop=StopReason.WON, success=True),
        episode("a", "p", level=2),
        episode("aaaa", "oooo", stop=StopReason.ENV_ERROR),
        episode("", "", stop=StopReason.ENGINE_ERROR),
        episode("abcd", "pqrs", stop=StopReason.TURN_LIMIT),
    ]
    result = summary(played)
    assert result.n == 3
    assert result.success == pytest.approx(1 / 3)
    assert (result.low, result.high) == pytest.approx(wilson(1, 3))
    assert result.failed == {"env_error": 1, "engine_error": 1}
    assert result.stops == {"won": 1, "lost": 1, "turn_limit": 1}
    assert (result.turns, result.turns_when_won, result.tokens) == pytest.approx((7 / 3, 2, 14 / 3))
    assert result.repeated_rate == 0
    assert {name: rate.n for name, rate in result.families.items()} == {
        "toy/x-v0?level=1": 2,
        "toy/x-v0?level=2": 1,
    }
    assert result.families["toy/x-v0?level=1"].success == 0.5
    assert Evaluation.model_validate_json(result.model_dump_json()) == result


def test_what_was_not_measured_is_none_and_not_zero() -> None:
    with logged(r"nothing was measured: 1 of 1 episodes failed \(1 env_error\)"):
        result = summary([episode("", "", stop=StopReason.ENV_ERROR)])
    assert (result.n, result.success, result.low, result.high) == (0, None, 0.0, 1.0)
    assert [
        result.turns,
        result.turns_when_won,
        result.tokens,
        result.invalid_rate,
        result.repeated_rate,
    ] == [None] * 5
    assert result.families["toy/x-v0?level=1"].success is None
    assert not result.whole
    assert Evaluation.model_validate_json(result.model_dump_json()) == result
    said = Console(width=200, record=True, file=io.StringIO())
    said.print(result.table())
    assert "nothing was measured" in said.export_text()
    assert "0.0%" not in said.export_text().replace("0.0% to 100.0%", "")


def test_a_family_of_which_every_episode_was_lost_is_listed() -> None:
    with logged("1 of 2 episodes failed"):
        result = summary([episode("a", "p"), episode("", "", stop=StopReason.ENV_ERROR, level=2)])
    assert {name: rate.success for name, rate in result.families.items()} == {
        "toy/x-v0?level=1": 0.0,
        "toy/x-v0?level=2": None,
    }


@pytest.mark.parametrize(
    ("lost", "whole"), [(0, True), (1, True), (2, True), (3, False), (19, False), (20, False)]
)
def test_an_evaluation_that_lost_more_than_a_tenth_is_not_whole(lost: int, whole: bool) -> None:
    played = [episode("", "", stop=StopReason.ENGINE_ERROR)] * lost
    played += [episode("a", "p", stop=StopReason.WON, success=True)] * (20 - lost)
    with listening() as said:
        result = summary(played)
    assert (result.whole, bool(said)) == (whole, not whole)
    assert (result.trouble is None) == (lost == 0)
    if 0 < lost < 20:
        assert f"between {(20 - lost) / 20:.1%} and 100.0%" in (result.trouble or "")


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_each_task_of_the_split_exactly_once(split: str) -> None:
    played: list[Episode] = []
    result = evaluate("toy/lights-v0", "expert", split=split, progress=False, episodes=played)
    assert sorted(e.task.seed for e in played) == list(SEEDS[split])
    assert (result.success, result.n, result.failed) == (1.0, len(SEEDS[split]), {})
    assert (result.turns, result.invalid_rate, result.temperature) == (3, 0, None)


def test_random_is_worse_than_the_expert_and_repeatable() -> None:
    first, second = (
        evaluate("toy/lights-v0", params={"length": 1}, progress=False) for _ in range(2)
    )
    assert first.success is not None
    assert 0 < first.success < 0.9
    assert first.model_dump(exclude={"seconds", "tokens_per_second"}) == second.model_dump(
        exclude={"seconds", "tokens_per_second"}
    )


def test_user_errors() -> None:
    for arguments, part in (
        ({"tasks": 13}, "has 12 tasks"),
        ({"tasks": 0}, "ask for 1 to 12"),
        ({"split": "trian"}, "no split"),
        ({"agent": "expret"}, "did you mean 'expert'"),
        ({"params": {"length": 1}, "agent": "/no/such/folder"}, "no agent"),
    ):
        with pytest.raises(UserError, match=part) as error:
            evaluate("toy/lights-v0", **{"progress": False, **arguments})  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="did you mean 'toy/lights-v0'"):
        evaluate("toy/light-v0", progress=False)
    many = [Task(env="toy/lights-v0", seed=seed) for seed in range(1000)]
    assert choose_tasks(many, None, "x") == many[:100]
    with pytest.raises(UserError, match="lists toy/lights-v0#0 3 times among its first 5 tasks"):
        choose_tasks([many[0], many[1], many[0], many[2], many[0]], 5, "the test split")


def test_the_result_says_under_which_conditions_and_how_each_task_went() -> None:
    played: list[Episode] = []
    result = evaluate(
        "toy/lights-v0",
        "random",
        params={"length": 1},
        tasks=3,
        max_turns=4,
        progress=False,
        episodes=played,
    )
    assert (result.max_turns, result.params, result.split_size, result.n) == (
        4,
        {"length": 1},
        12,
        3,
    )
    assert result.table().title == "random on toy/lights-v0 (test, 3 of 12 tasks)"
    assert [one.task for one in result.tasks] == [one.task.id for one in played]
    assert [one.success for one in result.tasks] == [one.success for one in played]
    assert [one.turns for one in result.tasks] == [len(one.turns) for one in played]
    assert result.versions["turnrl"] == turnrl.__version__
    assert {"python", "torch", "transformers", "tokenizers", "gymnasium"} <= set(result.versions)
    assert Evaluation.model_validate_json(result.model_dump_json()) == result
    assert not {"tasks", "versions", "params"} & set(result.record())
    with logged("1 of 1 episodes failed"):
        failed = summary([episode("a", "p", stop=StopReason.ENV_ERROR)])
    assert [(one.success, one.stop) for one in failed.tasks] == [(None, "env_error")]


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"seed": "1"}, "evaluate: seed"),
        ({"seed": None}, "evaluate: seed"),
        ({"tasks": 1.5}, "evaluate: tasks"),
        ({"params": [3]}, "evaluate: params"),
        ({"params": {"length": {1, 2}}}, "the parameter 'length' is a set"),
        ({"params": {"length": object()}}, "the parameter 'length' is a object"),
        ({"imports": "world.py"}, "evaluate: imports"),
        ({"agent": 3}, "evaluate: agent"),
        ({"env": 3}, "evaluate: env"),
        ({"max_turns": "many"}, "evaluate: max_turns"),
        ({"max_turns": 0}, "max_turns"),
        ({"concurrency": 0}, "concurrency"),
        ({"temperature": -1.0, "agent": "random"}, "temperature"),
        ({"pool": {"wrokers": 3}}, "wrokers"),
        ({"pool": {"workers": "x"}}, "workers"),
        ({"changes": {"parser": {"name": "tags"}}}, "only a language model"),
        ({"agent": "x" * 5000}, "no agent"),
    ],
)
def test_arguments_that_cannot_be_are_one_sentence(changed: dict[str, Any], part: str) -> None:
    with pytest.raises(UserError) as error:
        evaluate(**{"env": "toy/lights-v0", "tasks": 1, "progress": False, **changed})
    assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_numbers_of_numpy_are_numbers() -> None:
    two, three = cast(int, np.int64(2)), cast(int, np.int64(3))
    measured = evaluate("toy/lights-v0", tasks=two, seed=three, progress=False)
    assert (measured.n, measured.seed) == (2, 3)


def test_an_agent_object_and_lost_episodes() -> None:
    broken = list(SEEDS["test"])[:2]
    engine = FakeEngine(lambda name, turn, prompt: light(prompt))
    params = {"broken": broken, "length": 2}
    result = evaluate("toy/faulty_lights-v0", agent(engine), params=params, progress=False)
    assert (result.success, result.n, result.failed) == (1.0, 10, {"env_error": 2})


def test_a_checkpoint_plays(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "last"
    config = AgentConfig.model_validate(
        {"max_turns": 2, "system": False, "sampling": {"max_tokens": 2}}
    )
    save(tiny.build(tokenizer(), layers=1, width=16, heads=2, max_context=256), tokenizer(), folder)
    (folder / AGENT_FILE).write_text(config.model_dump_json())
    played: list[Episode] = []
    result = evaluate(
        "toy/lights-v0", str(tmp_path), tasks=3, progress=False, temperature=0.5, episodes=played
    )
    assert (result.n, result.temperature, result.agent) == (3, 0.5, tmp_path.name)
    assert result.turns is not None
    assert result.turns <= 2
    assert all(1 <= len(turn.response_ids) <= 2 for e in played for turn in e.turns)
    loaded = load_agent(tmp_path, temperature=0.0)
    assert (
        loaded.max_turns,
        loaded.agent.sampling.temperature,
        loaded.agent.sampling.max_tokens,
    ) == (2, 0.0, 2)


def test_unusable_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a checkpoint"):
        load_agent(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    (tmp_path / AGENT_FILE).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        load_agent(tmp_path)
