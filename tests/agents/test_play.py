"""play and play_many: exact prompts, typed failures, nothing generated in vain, episodes that
ignore the clock.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from turnrl.agents.agent import Agent, Player
from turnrl.agents.config import AgentConfig
from turnrl.agents.engines.base import ContextOverflow, EngineError, Sampling
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.agents.episode import Episode, StopReason
from turnrl.agents.models import tiny
from turnrl.agents.play import EpisodeJob, PlayStats, play_many
from turnrl.envs import Task
from turnrl.envs.pool.pool import EnvPool
from turnrl.foundation.errors import UserError

from ..toy_world import COLOURS
from .fake_engine import FakeEngine, light, perfect, tokenizer
from .fake_engine import agent as agent_of


def tasks(world: str = "lights", n: int = 1, **params: Any) -> list[Task]:
    return [Task(env=f"toy/{world}-v0", params=params, seed=seed) for seed in range(n)]


def jobs(chosen: list[Task], copies: int = 1) -> list[EpisodeJob]:
    return [
        EpisodeJob(task, f"s{i}.{copy}", 7)
        for i, task in enumerate(chosen)
        for copy in range(copies)
    ]


def play(agent: Agent, chosen: list[EpisodeJob], **options: Any) -> tuple[list[Episode], PlayStats]:
    pool_options = {"slots": 64, "workers": 4} | options.pop("pool", {})
    done: list[Episode] = []

    async def work() -> tuple[list[Episode], PlayStats]:
        async with EnvPool(**pool_options) as pool:
            return await play_many(
                agent, chosen, pool, **{"max_turns": 8, "done": done.append, **options}
            )

    episodes, stats = asyncio.run(asyncio.wait_for(work(), 60))
    assert len(done) == len(episodes) == len(chosen) == stats.episodes
    return episodes, stats


def wrong(prompt: str) -> str:
    return next(colour for colour in COLOURS if colour != light(prompt))


@pytest.mark.parametrize(
    "context", [{"name": "full_history"}, {"name": "sliding_window", "turns": 1}]
)
@pytest.mark.parametrize("parser", ["line", "tags", "tool_call"])
def test_prompts_of_the_episode_are_what_the_engine_saw(
    context: dict[str, Any], parser: str
) -> None:
    engine = FakeEngine(lambda s, t, p: agent.parser.render(light(p)) if t != 1 else "what\nnow")
    agent = agent_of(engine, context=context, parser={"name": parser}, system=True)
    episodes, _ = play(agent, jobs(tasks(n=3, length=4)))
    for i, episode in enumerate(episodes):
        assert episode.stop is StopReason.WON
        assert [episode.prompt(t) for t in range(len(episode.turns))] == engine.prompts[f"s{i}.0"]
        assert len(episode.turns) == 5
    assert any(not turn.extends for turn in episodes[0].turns[1:]) == (
        context["name"] == "sliding_window"
    )


def test_nothing_is_generated_after_the_end() -> None:
    engine = FakeEngine(lambda s, t, p: light(p) if t < int(s[1]) else wrong(p))
    episodes, _ = play(agent_of(engine), jobs(tasks(n=4, length=3), copies=2))
    assert [len(e.turns) for e in episodes] == [1, 1, 2, 2, 3, 3, 3, 3]
    assert engine.stats.generated_tokens == sum(e.response_tokens for e in episodes)
    assert {name: len(prompts) for name, prompts in engine.prompts.items()} == {
        f"s{i}.{copy}": min(i + 1, 3) for i in range(4) for copy in range(2)
    }
    assert [e.stop for e in episodes] == [StopReason.LOST] * 6 + [StopReason.WON] * 2
    assert not engine.conversations


def test_success_is_the_worlds_verdict_alone() -> None:
    episodes, _ = play(agent_of(FakeEngine(perfect)), jobs(tasks("lying_lights", n=2)))
    for episode in episodes:
        assert (episode.stop, episode.success) == (StopReason.LOST, False)
        assert (episode.turns[-1].env_reward, episode.turns[-1].score) == (1.0, 100.0)


def test_an_unparsable_answer_does_not_step_the_world() -> None:
    engine = FakeEngine(
        lambda s, t, p: light(p.replace("Invalid answer", "")) if t else "no\nsuch line"
    )
    pool: dict[str, Any] = {"options": {"extras": ("progress",)}}
    [episode], _ = play(agent_of(engine), jobs(tasks(length=1)), pool=pool)
    first, second = episode.turns
    assert (first.action, first.valid_action, first.invalid_reason) == (None, False, "unparsable")
    assert "Answer with one command on a single line" in first.observation
    assert (first.env_reward, first.progress, episode.start_progress) == (0.0, 0.0, 0.0)
    assert first.observation in tokenizer().decode(engine.prompts["s0.0"][1])
    assert (second.action, second.progress, episode.stop) == (second.text, 1.0, StopReason.WON)


def test_a_refused_action_is_invalid_and_the_episode_goes_on() -> None:
    engine = FakeEngine(lambda s, t, p: ["purple", "quit", light(p)][t])
    [episode], _ = play(agent_of(engine), jobs(tasks(length=1)))
    assert [turn.invalid_reason for turn in episode.turns] == ["rejected", "meta_verb", None]
    assert episode.success


def test_turn_limit_leaves_what_would_have_come_next() -> None:
    engine = FakeEngine(lambda s, t, p: "purple")
    for context in ({"name": "full_history"}, {"name": "sliding_window", "turns": 1}):
        [episode], _ = play(agent_of(engine, context=context), jobs(tasks()), max_turns=3)
        assert (episode.stop, len(episode.turns), episode.success) == (
            StopReason.TURN_LIMIT,
            3,
            False,
        )
        assert episode.closing_ids
        assert episode.closing_extends == (context["name"] == "full_history")
        engine.prompts.clear()
    pool: dict[str, Any] = {"options": {"max_turns": 2}}
    [episode], _ = play(agent_of(engine), jobs(tasks()), pool=pool)
    assert (episode.stop, len(episode.turns)) == (StopReason.TURN_LIMIT, 2)
    won, _ = play(agent_of(FakeEngine(perfect)), jobs(tasks()))
    assert won[0].closing_ids == []


@pytest.mark.parametrize(
    ("fault", "stop"), [("raise", StopReason.ENV_ERROR), ("hang", StopReason.ENV_TIMEOUT)]
)
def test_a_broken_world_is_retried_then_lost(fault: str, stop: StopReason) -> None:
    engine = FakeEngine(perfect)
    chosen = jobs(tasks("faulty_lights", n=4, broken=[2], fault=fault))
    episodes, stats = play(agent_of(engine), chosen, retries=1, pool={"step_timeout": 0.2})
    assert [e.stop for e in episodes] == [StopReason.WON, StopReason.WON, stop, StopReason.WON]
    assert stats.lost == {stop.value: 1}
    assert stats.retried == 1
    assert episodes[2].error
    assert not episodes[2].success
    assert {"s2.0", "s2.0~1"} <= set(engine.prompts)
    assert not engine.conversations


def test_a_world_that_recovers_is_played_again() -> None:
    params = {"once": [1], "length": 2}
    episodes, stats = play(
        agent_of(FakeEngine(perfect)), jobs(tasks("faulty_lights", n=2, **params))
    )
    assert all(e.success for e in episodes)
    assert (stats.retried, stats.lost) == (1, {})


def test_engine_errors_and_overflow_end_their_own_episode() -> None:
    def answer(name: str, turn: int, prompt: str) -> str | Exception:
        if turn == 1 and name.startswith("s1"):
            return EngineError("out of memory")
        if turn == 1 and name.startswith("s2"):
            return ContextOverflow("too long")
        return light(prompt)

    engine = FakeEngine(answer)
    episodes, stats = play(agent_of(engine), jobs(tasks(n=4)), retries=1)
    stops = [StopReason.WON, StopReason.ENGINE_ERROR, StopReason.CONTEXT_LIMIT, StopReason.WON]
    assert [e.stop for e in episodes] == stops
    assert stats.lost == {"engine_error": 1}
    assert "s2.0~1" not in engine.prompts
    assert len(episodes[2].turns) == 1
    assert episodes[2].closing_ids == []


def test_a_prompt_beyond_the_context_is_no_closing_state() -> None:
    [whole], _ = play(agent_of(FakeEngine(perfect)), jobs(tasks()), max_turns=2)
    assert whole.closing_ids
    short = FakeEngine(perfect, max_context=len(whole.prompt(1)) + 1)
    [episode], _ = play(agent_of(short), jobs(tasks()), max_turns=2)
    assert (episode.stop, episode.closing_ids) == (StopReason.TURN_LIMIT, [])


def test_an_episode_knows_whether_its_limit_was_the_tasks_own() -> None:
    """A shorter one than the task's has a name; the world's end and its own limit keep theirs."""
    engine, limit = FakeEngine(lambda s, t, p: "purple"), StopReason.CURRICULUM_LIMIT
    [episode], _ = play(agent_of(engine), jobs(tasks()), max_turns=3, limit=limit)
    assert (episode.stop, len(episode.turns)) == (limit, 3)
    assert episode.closing_ids
    assert Episode.from_json(episode.to_json()).stop is limit
    for own in (2, 3):
        pool: dict[str, Any] = {"options": {"max_turns": own}}
        [episode], _ = play(agent_of(engine), jobs(tasks()), pool=pool, max_turns=3, limit=limit)
        assert (episode.stop, len(episode.turns)) == (StopReason.TURN_LIMIT, own)
    [won], _ = play(agent_of(FakeEngine(perfect)), jobs(tasks(length=3)), max_turns=3, limit=limit)
    assert (won.stop, len(won.turns)) == (StopReason.WON, 3)


def test_lanes_are_refilled_and_limited() -> None:
    engine = FakeEngine(lambda s, t, p: light(p) if s.startswith("s0") else wrong(p))
    episodes, _ = play(agent_of(engine), jobs(tasks(n=6, length=8)), concurrency=2)
    assert [len(e.turns) for e in episodes] == [8, 1, 1, 1, 1, 1]
    # A lane opens its next conversation before it closes the last one.
    assert engine.most_live <= 4
    order = [name for what, name in engine.log if what == "close"]
    assert order.index("s4.0") < order.index("s0.0")


def test_more_lanes_than_slots_do_not_wait_for_each_other() -> None:
    torch.manual_seed(0)
    model = tiny.build(tokenizer(), layers=1, width=16, heads=2, max_context=256)
    agent = AgentConfig.model_validate({"system": False, "sampling": {"max_tokens": 2}}).build(
        TorchEngine(model, tokenizer()), tokenizer()
    )
    episodes, _ = play(agent, jobs(tasks(n=5)), pool={"slots": 2}, max_turns=2)
    assert all(e.turns for e in episodes)


def test_a_conversation_that_is_kept_can_be_scored_until_its_scope_ends() -> None:
    engine = FakeEngine(lambda name, t, p: EngineError("no") if name[1] == "2" else light(p))
    with ExitStack() as keep:
        episodes, _ = play(agent_of(engine), jobs(tasks(n=4, length=2)), keep=keep, retries=1)
        lost = episodes.pop(2)
        assert (lost.stop, lost.id) == (StopReason.ENGINE_ERROR, "s2.0~1")
        assert engine.conversations.keys() == {episode.id for episode in episodes}
        talks = list(engine.conversations.values())
        for talk in talks:
            assert asyncio.run(talk.score([1, 2, 3], 1)) == [0.0, 0.0]
            with pytest.raises(EngineError, match="finished"):
                asyncio.run(talk.generate([1], Sampling()))
    assert not engine.conversations
    for talk in talks:
        with pytest.raises(EngineError, match="closed"):
            asyncio.run(talk.score([1, 2, 3], 1))


def test_a_scope_closes_the_conversations_of_a_play_that_was_cut() -> None:
    def answer(name: str, turn: int, prompt: str) -> str:
        if name == "s3.0" and turn == 1:
            raise UserError("no such thing")
        return light(prompt)

    engine = FakeEngine(answer)
    with pytest.raises(UserError), ExitStack() as keep:
        play(agent_of(engine), jobs(tasks(n=6, length=3)), keep=keep, concurrency=2)
    assert not engine.conversations


def test_an_error_of_the_user_closes_every_conversation() -> None:
    class Careless(Agent):
        def player(self, episode_id: str, seed: int) -> Player:
            made = inner.player(episode_id, seed)
            if episode_id == "s3.0":

                async def move() -> Any:
                    raise UserError("no such thing")

                made.move = move  # type: ignore[method-assign]
            return made

    engine = FakeEngine(perfect)
    inner = agent_of(engine)

    async def work() -> None:
        async with EnvPool() as pool:
            with pytest.raises(UserError):
                await play_many(Careless(), jobs(tasks(n=6)), pool, max_turns=8)
            # At once, not when the loop ends: the engine would wait for them.
            assert not engine.conversations

    asyncio.run(work())


def test_episodes_do_not_depend_on_the_speed_of_worlds() -> None:
    def once(world: str, **options: Any) -> list[list[tuple[list[int], list[float], str | None]]]:
        model = tiny.build(tokenizer(), layers=1, width=16, heads=2, max_context=256, init_std=0.3)
        config = AgentConfig.model_validate({"system": False, "sampling": {"max_tokens": 4}})
        agent = config.build(TorchEngine(model, tokenizer()), tokenizer())
        episodes, _ = play(agent, jobs(tasks(world, n=6), copies=2), max_turns=4, **options)
        return [
            [(turn.response_ids, turn.logprobs, turn.action) for turn in e.turns] for e in episodes
        ]

    slow = once("slow_lights")
    refilled = once("slow_lights", concurrency=3)
    assert refilled == once("lights", concurrency=3) == once("slow_lights", concurrency=3)
    assert slow == once("slow_lights") == once("lights")
    assert [[turn[0] for turn in e] for e in refilled] == [[turn[0] for turn in e] for e in slow]
    assert any(slow[0] != other for other in slow[1:2])
