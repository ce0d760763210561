"""The walk: every estimator learns the toy world, and what the recipe asks for is computed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from turnrl import Recipe
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.agents.episode import Group, episodes_of
from turnrl.agents.models.load import load
from turnrl.agents.symmetry import rename
from turnrl.envs import make
from turnrl.training.batch import TokenBatch
from turnrl.training.publisher import Publisher
from turnrl.training.run import train
from turnrl.training.run_folder.log import Record, RunLog
from turnrl.training.session import Session
from turnrl.training.source.rollout import rollout
from turnrl.training.walk import Trainer

from ..toy_world import TEXTS, episodes_won, recipe


def run(folder: Path, data: dict[str, Any]) -> list[Record]:
    lines: list[Record] = []
    train(Recipe.parse(data), run_dir=folder, progress=False, on_record=lines.append)
    return lines


@contextmanager
def session_of(folder: Path, data: dict[str, Any]) -> Iterator[Session]:
    """A session as `train` makes it, without a warm start."""
    made = Recipe.parse(data)
    loaded = load(made.model, corpus=lambda: TEXTS)
    engine = TorchEngine(loaded.model, loaded.tokenizer)
    agent = made.agent.build(engine, loaded.tokenizer)
    needs = frozenset().union(*(reward.needs() for reward in made.rewards)) & {"progress"}
    pool = made.pool.build(64, needs)
    prototype = make(made.env_id, **made.env_params)
    try:
        log = RunLog(folder)
        yield Session(
            made,
            loaded.model,
            loaded.tokenizer,
            engine,
            agent,
            prototype,
            pool,
            log,
            progress=False,
        )
    finally:
        pool.close()


LEARN: dict[str, dict[str, Any]] = {
    "grpo": {"credit": {"name": "grpo"}},
    "rloo": {"credit": {"name": "rloo"}, "loss": {"name": "reinforce"}},
    "turn_return": {"credit": {"name": "turn_return"}},
    "gae": {
        "credit": {"name": "gae", "gamma": 1.0, "lam": 0.95},
        "critic": {"lr": 0.005, "warmup_steps": 1},
    },
}


@pytest.mark.parametrize("name", LEARN)
def test_it_learns(tmp_path: Path, name: str) -> None:
    rewards = [{"name": "outcome"}, {"name": "progress", "weight": 0.5}]
    sft = {"demonstrations": 8, "epochs": 10, "batch": 8}
    rl = {
        "steps": 32,
        "tasks_per_step": 8,
        "checkpoint_every": 100,
        "optim": {"lr": 0.003},
        **LEARN[name],
    }
    lines = run(tmp_path / "run", recipe(sft=sft, rl=rl, rewards=rewards, seed=1))
    first = [
        line["success"] for line in lines if line["kind"] == "train" and line["stage"] == "rl"
    ][:3]
    assert sum(first) / 3 < 0.45
    assert episodes_won(lines, 4) > 0.75


def test_what_is_needed_is_computed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases: list[tuple[dict[str, Any], set[str]]] = [
        ({}, set()),
        ({"regularizers": [{"name": "kl"}]}, {"ref"}),
        (
            {"loss": {"name": "ppo_clip", "importance": {"mode": "token_truncate"}}},
            {"old"},
        ),
        ({"credit": {"name": "gae"}}, {"values_BL"}),
        ({"credit": {"name": "gae", "limit": "bootstrap"}}, {"values_BL", "bootstrap_E"}),
        (
            {"credit": {"name": "gae"}, "curriculum": {"name": "horizon", "first": 1}},
            {"values_BL", "bootstrap_E"},
        ),
    ]
    costly = {"values_BL", "bootstrap_E"}
    for i, (rl, expected) in enumerate(cases):
        with session_of(tmp_path / str(i), recipe(rl=rl)) as session:
            stage: Any = session.recipe.stages[1]
            trainer = Trainer(session, stage, 1)
            batches: list[TokenBatch] = []
            packed = trainer.batch

            def batch_of(
                groups: Sequence[Group],
                packed: Callable[[Sequence[Group]], TokenBatch] = packed,
                batches: list[TokenBatch] = batches,
            ) -> TokenBatch:
                batches.append(packed(groups))
                return batches[-1]

            monkeypatch.setattr(trainer, "batch", batch_of)
            metrics = asyncio.run(trainer.step(0))
        [batch] = batches
        found = {name for name in costly if getattr(batch, name) is not None}
        assert found | (batch.scores.keys() - {"engine"}) == expected
        if "old" in batch.scores:
            assert metrics["importance_weight"] == pytest.approx(1, abs=1e-5)
            assert metrics["importance_ess"] == pytest.approx(1, abs=1e-5)
            gap_BL = batch.logprobs_of("old") - batch.logprobs_of("engine")
            assert float(gap_BL[batch.mask_BL].abs().max()) < 1e-4
        if "ref" in batch.scores:
            assert metrics["kl"] == pytest.approx(0, abs=1e-6)
            assert metrics["kl_clamped"] == 0
        if batch.values_BL is not None:
            assert "loss/value" in metrics


def test_the_constant_of_dr_grpo_is_the_recipes(tmp_path: Path) -> None:
    loss = {"name": "ppo_clip", "aggregation": "seq_mean_token_sum_norm"}
    for i, (fields, expected) in enumerate([({}, 4 * 3), ({"norm_length": 50}, 50)]):
        with session_of(tmp_path / str(i), recipe(rl={"loss": loss | fields})) as session:
            stage: Any = session.recipe.stages[1]
            assert Trainer(session, stage, 1).learner.loss.norm_length == expected


def test_kl_acts_on_rewards_or_on_the_loss(tmp_path: Path) -> None:
    found = {}
    for place in ("loss", "reward"):
        terms = [{"name": "kl", "place": place, "coefficient": 0.3, "estimator": "k1"}]
        rl = {"steps": 3, "regularizers": terms, "optim": {"lr": 0.02}}
        found[place] = [
            line for line in run(tmp_path / place, recipe(rl=rl)) if line["stage"] == "rl"
        ]
    for line in found["reward"]:
        assert line["loss/kl"] == 0
        assert line["return"] == pytest.approx(
            line["reward/outcome"] + 0.3 * line["reward/kl"], abs=1e-5
        )
    assert found["reward"][0]["reward/kl"] == pytest.approx(0, abs=1e-5)
    assert abs(found["reward"][-1]["reward/kl"]) > 1e-3
    assert not any("reward/kl" in line for line in found["loss"])
    assert abs(found["loss"][-1]["loss/kl"]) > 1e-4
    assert found["loss"][-1]["return"] == pytest.approx(found["loss"][-1]["reward/outcome"])


def test_members_of_a_group_play_under_different_symmetries(tmp_path: Path) -> None:
    """Actions and observations stay the world's; what the model reads and writes is renamed."""
    with session_of(tmp_path / "run", recipe(rl={"symmetries": 2, "group_size": 4})) as session:
        stage: Any = session.recipe.stages[1]
        trainer = Trainer(session, stage, 1)
        kept: list[Any] = []
        packed = trainer.batch
        trainer.batch = lambda groups: (kept.append(groups), packed(groups))[1]  # type: ignore
        metrics = asyncio.run(trainer.step(0))
        [groups] = kept
        swap = session.prototype.symmetries[0]
        for i, group in enumerate(groups):
            for member, episode in enumerate(group):
                renaming = swap if (i + member) % 2 else {}
                for t, turn in enumerate(episode.turns):
                    seen = episode.opening if t == 0 else episode.turns[t - 1].observation
                    assert rename(seen, renaming) in session.tokenizer.decode(episode.prompt(t))
                    assert turn.action is None or rename(turn.action, renaming) == turn.text.strip()
    assert metrics["engine_gap"] < 1e-5


def test_named_rewards_and_advantages_are_written_into_the_turns(tmp_path: Path) -> None:
    rewards = [
        {"name": "outcome"},
        {"name": "progress", "weight": 0.5},
        {"name": "step_cost", "weight": 0.1},
    ]
    with session_of(tmp_path / "run", recipe(rewards=rewards)) as session:
        stage: Any = session.recipe.stages[1]
        trainer = Trainer(session, stage, 1)
        kept: list[Any] = []
        describe, packed = trainer.describe, trainer.batch
        trainer.batch = lambda g: (kept.append(g), packed(g))[1]  # type: ignore
        trainer.describe = lambda b, t, a: (kept.extend((b, a)), describe(b, t, a))[1]  # type: ignore
        asyncio.run(trainer.step(0))
    groups, batch, advantages = kept
    advantages_BL = advantages.values
    sums = batch.per_turn(advantages_BL)
    for e, episode in enumerate(episodes_of(groups)):
        for t, turn in enumerate(episode.turns):
            assert turn.rewards.keys() == {"outcome", "progress", "step_cost"}
            assert turn.advantage == pytest.approx(float(sums[e, t]) / len(turn.response_ids))
            first_BL = (batch.episode_B[:, None] == e) & (batch.turn_BL == t)
            assert turn.advantage == pytest.approx(float(advantages_BL[first_BL].mean()))


def test_the_share_of_useful_tokens_is_a_share(tmp_path: Path) -> None:
    env = {"id": "toy/faulty_lights-v0", "length": 2, "broken": [1]}
    with session_of(tmp_path / "run", recipe(env=env)) as session:
        tasks = list(session.prototype.tasks("train")[:3])
        options: dict[str, Any] = {
            "group_size": 2,
            "step": 0,
            "seed": 0,
            "max_turns": 3,
            "concurrency": 64,
        }
        groups, metrics = asyncio.run(rollout(tasks, session.agent, session.pool, **options))
    kept = sum(e.response_tokens for e in episodes_of(groups))
    lost = [stop.value for group in groups for stop in group.lost]
    assert metrics["useful_share"] == pytest.approx(kept / metrics["tokens/generated"])
    assert (metrics["useful_share"] < 1) == bool(lost)
    assert metrics.get("lost/env_error", 0) == len(lost)
    assert metrics["episodes"] == 6 - len(lost)
    assert metrics["tokens_per_second"] > 0


def test_a_signal_after_the_update_is_heard_when_the_step_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the weights of a step that does not count would be saved, and it would be made twice."""
    with session_of(tmp_path, recipe()) as session:
        stage: Any = session.recipe.stages[1]
        trainer = Trainer(session, stage, 1)
        pushed: list[int] = []

        async def step() -> Record:
            pushing = asyncio.Event()

            async def slow(publisher: Publisher, weights: Any, version: int) -> None:
                pushing.set()
                await asyncio.sleep(0.01)
                pushed.append(version)

            monkeypatch.setattr(Publisher, "push", slow)
            task = asyncio.ensure_future(trainer.step(0))
            await pushing.wait()
            task.cancel()
            return await task

        assert "loss/policy" in asyncio.run(step())
        assert pushed == [1]
