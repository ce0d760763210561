"""The end of the context ends the episode, is learnt from, and is no way out of losing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from turnrl.agents.engines.base import Conversation
from turnrl.agents.episode import Episode, Group, StopReason, episodes_of
from turnrl.training.supervised import SupervisedTrainer
from turnrl.training.walk import Trainer

from ..logged import logged
from ..toy_world import recipe
from .test_on_policy import farthest, first_ratios, gpt2
from .test_trainer import session_of


async def played_by(trainer: Trainer, count: int) -> list[Group]:
    groups, _ = await trainer.rewarded(await trainer.source.next(0, count))
    return groups


def played(session: Any, count: int = 4) -> list[Group]:
    trainer = Trainer(session, session.recipe.stages[-1], 1)
    return asyncio.run(played_by(trainer, count))


def tight(folder: Path, family: str, limit: int, **changes: Any) -> dict[str, Any]:
    """A recipe whose model reads so many tokens; GPT-2 has no positions beyond them."""
    model = {"name": gpt2(folder / "model"), "max_context": limit}
    if family == "tiny":
        model = recipe()["model"] | {"max_context": limit}
    agent = {"max_turns": 6, "system": False, "sampling": {"max_tokens": 20}} | changes.pop(
        "agent", {}
    )
    env = {"id": "toy/lights-v0", "length": 6, "forgiving": True}
    return recipe(
        model=model, agent=agent, env=env, rewards=[{"name": "outcome", "failure": -1.0}], **changes
    )


@pytest.mark.parametrize("family", ["tiny", "gpt2"])
@pytest.mark.parametrize("context", ["full_history", "sliding_window"])
def test_a_response_that_overflows_is_the_last_turn(
    tmp_path: Path, family: str, context: str
) -> None:
    limit = 24
    data = tight(tmp_path, family, limit, agent={"context": {"name": context}})
    with session_of(tmp_path / "run", data) as session:
        session.engine.max_context = limit
        groups = played(session)
    episodes = episodes_of(groups)
    assert len(episodes) == 16
    cut = [
        e
        for e in episodes
        if e.turns[-1].finish_reason == "length" and len(e.turns[-1].response_ids) < 20
    ]
    assert cut
    for episode in episodes:
        lengths = [
            len(episode.prompt(t)) + len(turn.response_ids) for t, turn in enumerate(episode.turns)
        ]
        assert max(lengths) <= limit
        assert all(len(turn.logprobs) == len(turn.response_ids) > 0 for turn in episode.turns)
    for episode in cut:
        last = len(episode.turns) - 1
        assert episode.stop in (StopReason.CONTEXT_LIMIT, StopReason.WON, StopReason.LOST)
        assert len(episode.prompt(last)) + len(episode.turns[last].response_ids) == limit
        if not episode.success:
            assert sum(turn.rewards["outcome"] for turn in episode.turns) == -1
        assert not episode.closing_ids, "there is no state after the end of the context"


@pytest.mark.parametrize("family", ["tiny", "gpt2"])
@pytest.mark.parametrize("credit", ["grpo", "gae"])
def test_what_the_context_cut_is_learnt_from(tmp_path: Path, family: str, credit: str) -> None:
    data = tight(tmp_path, family, 24, rl={"credit": {"name": credit}})
    with session_of(tmp_path / "run", data) as session:
        session.engine.max_context = 24
        trainer = Trainer(session, session.recipe.stages[-1], 1)  # type: ignore[arg-type]
        metrics = asyncio.run(trainer.step(0))
    assert metrics["stop/context_limit"] > 0
    assert metrics["tokens/trained"] == metrics["tokens/generated"], (
        "nothing that was sampled is thrown away"
    )
    assert metrics["useful_share"] == 1
    assert metrics["engine_gap/max"] < 1e-4


def test_the_last_token_of_the_context_is_on_policy(tmp_path: Path) -> None:
    with session_of(tmp_path / "run", tight(tmp_path, "gpt2", 24)) as session:
        session.engine.max_context = 24
        assert farthest(first_ratios(session)) < 1e-4


@pytest.mark.parametrize("turns", [1, 2])
def test_the_context_limit_is_named_before_the_turn_limit(tmp_path: Path, turns: int) -> None:
    data = tight(tmp_path, "tiny", 16, agent={"max_turns": turns})
    with session_of(tmp_path / "run", data) as session:
        session.engine.max_context = 12
        for episode in episodes_of(played(session)):
            last = episode.turns[-1]
            if (
                not episode.success
                and last.finish_reason == "length"
                and len(last.response_ids) < 20
            ):
                assert episode.stop is StopReason.CONTEXT_LIMIT


@pytest.mark.parametrize(
    "credit", ["grpo", "turn_return", "gae", "gigpo", "reinforce_pp", "stepwise"]
)
def test_an_opening_that_does_not_fit_is_a_lost_game(
    tmp_path: Path, credit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is worth what losing is worth, and nothing is learnt from it."""
    data = tight(tmp_path, "tiny", 512, rl={"credit": {"name": credit}})
    with session_of(tmp_path / "run", data) as session:
        trainer = Trainer(session, session.recipe.stages[-1], 1)  # type: ignore[arg-type]
        generate = Conversation.generate

        async def half(talk: Conversation, prompt: Any, sampling: Any) -> Any:
            """Half of the conversations meet a short context, as under longer words."""
            short = int(talk.id[-1]) % 2
            return await generate(talk, [*prompt, *[0] * 600] if short else prompt, sampling)

        monkeypatch.setattr(Conversation, "generate", half)
        groups = asyncio.run(played_by(trainer, 2))
        episodes = episodes_of(groups)
        silent = [episode for episode in episodes if not episode.response_tokens]
        assert len(silent) == 4
        for episode in silent:
            assert episode.stop is StopReason.CONTEXT_LIMIT
            assert [turn.rewards for turn in episode.turns] == [{"outcome": -1.0}]
            assert not episode.success
        batch = trainer.batch(groups)
        rewards = trainer.table(groups, batch)
        returns = rewards.total_E
        lost = [e for e, episode in enumerate(episodes) if not episode.success]
        assert returns[lost].tolist() == [-1.0] * len(lost)
        assert torch.isfinite(trainer.credit(rewards, batch).values).all()
        metrics = asyncio.run(trainer.step(0))
        assert metrics["stop/context_limit"] == 8


def test_a_step_in_which_nothing_could_be_said_is_skipped(tmp_path: Path) -> None:
    with session_of(tmp_path / "run", tight(tmp_path, "tiny", 128)) as session:
        session.engine.max_context = 2
        trainer = Trainer(session, session.recipe.stages[-1], 1)  # type: ignore[arg-type]
        metrics = asyncio.run(trainer.step(0))
    assert metrics["skipped"] == 1
    assert metrics["stop/context_limit"] == 16
    assert metrics["success"] == 0


@pytest.mark.parametrize("family", ["tiny", "gpt2"])
def test_demonstrations_end_where_the_context_does(tmp_path: Path, family: str) -> None:
    with session_of(tmp_path / "run", tight(tmp_path, family, 24)) as session:
        session.engine.max_context = 24
        made = SupervisedTrainer(session, session.recipe.stages[0], 0)  # type: ignore[arg-type]
        with logged("4 of 4 training demonstrations do not fit a context of 24 tokens"):
            train, valid = asyncio.run(made.demonstrate())
        whole: list[Episode] = [*train, *valid]
        for episode in whole:
            last = len(episode.turns) - 1
            assert 0 < len(episode.turns) < 6
            assert len(episode.prompt(last)) + len(episode.turns[last].response_ids) <= 24
        assert made.learn(train) > 0
