"""information_gain against plain forward passes, from caches, under symmetries, all targets."""

from __future__ import annotations

import asyncio
import math
import random
from contextlib import ExitStack
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from turnrl.agents.agent import LanguageAgent
from turnrl.agents.config import AgentConfig
from turnrl.agents.engines.base import EngineError
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.agents.episode import Group, episodes_of
from turnrl.agents.models import tiny
from turnrl.agents.symmetry import rename
from turnrl.envs import Task
from turnrl.envs.pool.pool import EnvPool
from turnrl.foundation.errors import UserError
from turnrl.rewards.base import REWARDS
from turnrl.training.source.rollout import rollout

from ..agents.fake_engine import tokenizer
from ..toy_world import COLOURS, LightsEnv


@cache
def model() -> Any:
    return tiny.build(tokenizer(), layers=2, width=16, heads=2, max_context=512, init_std=0.3)


def agent_of(context: str = "full_history", parser: str = "line") -> LanguageAgent:
    config = AgentConfig.model_validate(
        {
            "system": False,
            "context": {"name": context},
            "parser": {"name": parser},
            "sampling": {"max_tokens": 4},
        }
    )
    return config.build(TorchEngine(model(), tokenizer()), tokenizer())


def played(
    agent: LanguageAgent, renamings: Any = ({},), keep: ExitStack | None = None, **params: Any
) -> list[Group]:
    tasks = [
        Task(env="toy/lights-v0", params={"length": 3} | params, seed=seed) for seed in range(2)
    ]

    async def work() -> list[Group]:
        async with EnvPool() as pool:
            groups, _ = await rollout(
                tasks,
                agent,
                pool,
                group_size=3,
                step=0,
                seed=1,
                max_turns=4,
                concurrency=64,
                renamings=renamings,
                ask_expert=True,
                keep=keep or ExitStack(),
            )
            return groups

    return asyncio.run(work())


def gains(agent: LanguageAgent, groups: list[Group], **config: Any) -> list[list[float]]:
    reward = REWARDS.build({"name": "information_gain", **config})

    async def work() -> list[list[float]]:
        rows = await asyncio.gather(*(reward(group, agent) for group in groups))
        return [row for group in rows for row in group]

    return asyncio.run(work())


def plainly(prompt: list[int], answer: list[int], first: int) -> float:
    """Mean log-probability of ``answer[first:]`` by one forward pass of the whole."""
    with torch.no_grad():
        logits = model()(torch.tensor([prompt + answer])).logits[0].double().log_softmax(-1)
    places = range(len(prompt) + first, len(prompt) + len(answer))
    return sum(float(logits[i - 1, (prompt + answer)[i]]) for i in places) / len(places)


@pytest.mark.parametrize("context", ["full_history", "sliding_window"])
@pytest.mark.parametrize("parser", ["line", "tags"])
def test_gains_are_those_of_plain_forward_passes(context: str, parser: str) -> None:
    agent = agent_of(context, parser)
    groups = played(agent)
    for episode in episodes_of(groups):
        episode.answer = ["green", "blue white"]
    rows = gains(agent, groups)
    probable = gains(agent, groups, gain="prob")
    longest = 0
    for episode, row, by_prob in zip(episodes_of(groups), rows, probable, strict=True):
        scores = [
            max(
                plainly(episode.prompt(t), *agent.encode_answer(gold, gold))
                for gold in episode.answer or []
            )
            for t in range(len(episode.turns))
        ]
        assert row[:-1] == pytest.approx(
            [after - before for before, after in pairwise(scores)], abs=1e-4
        )
        assert row[-1] == 0
        assert sum(row) == pytest.approx(scores[-1] - scores[0], abs=1e-4)
        assert sum(by_prob) == pytest.approx(math.exp(scores[-1]) - math.exp(scores[0]), abs=1e-4)
        longest = max(longest, len(row))
    assert longest > 2


def test_contexts_come_from_the_cache() -> None:
    """Nothing that was played is encoded again: scoring costs the target's tokens only."""
    agent = agent_of()
    groups = played(agent)
    for episode in episodes_of(groups):
        episode.answer = ["green"]
    before = agent.engine.stats.prompt_tokens
    gains(agent, groups)
    ids, _ = agent.encode_answer("green", "green")
    turns = sum(len(episode.turns) for episode in episodes_of(groups) if len(episode.turns) > 1)
    assert 0 < agent.engine.stats.prompt_tokens - before <= (len(ids) + 1) * turns


def test_the_plan_of_the_expert_is_made_before_the_episode_and_its_end_renamed() -> None:
    agent = agent_of()
    swap = LightsEnv.symmetries[0]
    groups = played(agent, renamings=({}, swap))
    rows = gains(agent, groups, target="expert")
    for i, group in enumerate(groups):
        rng = random.Random(group.task.seed)
        lights = [rng.choice(COLOURS) for _ in range(3)]
        for member, episode in enumerate(group):
            assert episode.renaming == (swap if (i + member) % 2 else {})
            assert episode.expert == lights
    for episode, row in zip(episodes_of(groups), rows, strict=True):
        word = rename(episode.expert[-1], episode.renaming)
        ids, first = agent.encode_answer(word, word)
        ends = [plainly(episode.prompt(t), ids, first) for t in (0, len(episode.turns) - 1)]
        assert sum(row) == pytest.approx(ends[1] - ends[0], abs=1e-4)


def test_a_goal_is_a_fixed_text_inside_an_action() -> None:
    agent = agent_of(parser="tags")
    groups = played(agent)
    rows = gains(agent, groups, target="goal", goal="red", answer="say {}!")
    ids, first = agent.encode_answer("say red!", "red")
    assert tokenizer().decode(ids[:first]).endswith("say ") or "red" in tokenizer().decode(
        ids[first:]
    )
    for episode, row in zip(episodes_of(groups), rows, strict=True):
        ends = [plainly(episode.prompt(t), ids, first) for t in (0, len(episode.turns) - 1)]
        assert sum(row) == pytest.approx(ends[1] - ends[0], abs=1e-4)


def test_nothing_stays_in_the_engine_after_the_conversations_are_closed() -> None:
    agent = agent_of()
    with ExitStack() as keep:
        groups = played(agent, keep=keep)
        assert agent.engine.conversations.keys() == {e.id for e in episodes_of(groups)}
        assert all(talk.finished for talk in agent.engine.conversations.values())
        assert agent.engine.kept_tokens > 0
        gains(agent, groups, target="goal", goal="red")
    assert not agent.engine.conversations
    assert agent.engine.kept_tokens == 0


def test_one_turn_has_no_gain_and_a_failing_engine_is_not_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = agent_of()
    groups = played(agent)
    for episode in episodes_of(groups):
        episode.answer = ["green"]
        del episode.turns[1 if episode is groups[0].episodes[0] else 9 :]

    async def broken(*args: Any, **options: Any) -> list[float]:
        raise EngineError("gone")

    monkeypatch.setattr(agent.engine, "_score", broken)
    rows = gains(agent, groups)
    assert rows[0] == [0.0]
    assert all(math.isnan(value) for row in rows[1:] for value in row[:-1])


def test_near_the_end_of_the_context_nothing_is_gained() -> None:
    """An episode that ran into the limit of the context is still an episode to learn from."""
    agent = agent_of()
    groups = played(agent)
    for episode in episodes_of(groups):
        episode.answer = ["green"]
    whole = gains(agent, groups)
    longest = max(episodes_of(groups), key=lambda episode: len(episode.turns))
    row = whole[episodes_of(groups).index(longest)]
    last = len(longest.turns) - 1
    agent.engine.max_context = len(longest.prompt(last))
    cut = gains(agent, groups)[episodes_of(groups).index(longest)]
    assert last >= 2
    assert cut[: last - 1] == pytest.approx(row[: last - 1], abs=1e-5)
    assert cut[last - 1 :] == [0.0, 0.0]
    agent.engine.max_context = 1
    assert math.isnan(gains(agent, groups)[0][0])


def test_a_world_without_the_target_is_told_in_one_sentence() -> None:
    agent = agent_of()
    groups = played(agent)
    with pytest.raises(UserError, match=r"toy/lights-v0 has no gold answer .* set target: expert"):
        gains(agent, groups)


@pytest.mark.parametrize("config", [{"target": "goal"}, {"goal": "x"}, {"answer": "say"}])
def test_inconsistent_targets_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"goal|place"):
        REWARDS.build({"name": "information_gain", **config})


def test_only_the_target_that_is_the_experts_asks_for_a_plan() -> None:
    assert REWARDS.build({"name": "information_gain"}).needs() == {"scorer"}
    assert REWARDS.build({"name": "information_gain", "target": "expert"}).needs() == {
        "scorer",
        "expert",
    }


@cache
def writer() -> LanguageAgent:
    return agent_of(parser="tags")


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8),
    st.booleans(),
)
def test_the_span_holds_the_answer_whatever_the_tokenizer_merges(words: str, inside: bool) -> None:
    agent = writer()
    action = f"answer {words} please" if inside else words
    ids, first = agent.encode_answer(action, words)
    assert words in tokenizer().decode(ids[first:])
    assert tokenizer().decode(ids[: first + 1]) != tokenizer().decode(ids[:first])
    assert not agent.parser.render(action)[: agent.parser.render(action).rindex(words)].startswith(
        tokenizer().decode(ids[: first + 1])
    ), "the first token would not be part of the answer"
