"""retell: an expert's episode becomes exactly what a perfect model would have read and written."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
from turnrl.agents.agent import LanguageAgent
from turnrl.agents.baselines import ExpertAgent
from turnrl.agents.chat.chat import Chat
from turnrl.agents.demonstrations import retell
from turnrl.agents.episode import Episode, StopReason
from turnrl.agents.play import EpisodeJob, play_many
from turnrl.agents.symmetry import rename
from turnrl.envs import Task
from turnrl.envs.pool.pool import EnvPool

from ..toy_world import LightsEnv
from .fake_engine import FakeEngine, agent, perfect, tokenizer

SWAP = LightsEnv.symmetries[0]


def played(player: Any, n: int = 4, renaming: dict[str, str] | None = None) -> list[Episode]:
    async def work() -> list[Episode]:
        async with EnvPool(options={"extras": tuple(player.extras)}) as pool:
            chosen = [Task(env="toy/lights-v0", seed=seed) for seed in range(n)]
            jobs = [EpisodeJob(task, f"s{task.seed}", 0, renaming or {}) for task in chosen]
            return (await play_many(player, jobs, pool, max_turns=20))[0]

    return asyncio.run(work())


def fields(episode: Episode) -> list[Any]:
    return [
        (t.prompt_ids, t.extends, t.response_ids, t.text, t.action, t.observation)
        for t in episode.turns
    ]


def models(**config: Any) -> LanguageAgent:
    made = agent(FakeEngine(perfect), **config)
    parser = made.parser
    made.engine.answer = lambda s, t, p: parser.render(perfect(s, t, p))  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize(
    "context", [{"name": "full_history"}, {"name": "sliding_window", "turns": 1}]
)
@pytest.mark.parametrize("parser", ["line", "tags", "tool_call"])
@pytest.mark.parametrize("renaming", [{}, SWAP])
def test_retold_is_what_a_perfect_model_plays(
    context: dict[str, Any], parser: str, renaming: dict[str, str]
) -> None:
    model = models(context=context, parser={"name": parser}, system=True)
    for expert, own in zip(played(ExpertAgent()), played(model, renaming=renaming), strict=True):
        told = retell(expert, model, LightsEnv.instructions, renaming)
        assert fields(told) == fields(own)
        assert [told.prompt(t) for t in range(len(told.turns))] == [
            own.prompt(t) for t in range(len(own.turns))
        ]
        assert (told.stop, told.success, told.task) == (StopReason.WON, True, own.task)
        assert all(turn.logprobs == [0.0] * len(turn.response_ids) for turn in told.turns)


def test_a_symmetry_renames_everything_the_model_reads_and_writes() -> None:
    model = models()
    for expert in played(ExpertAgent(), n=8):
        plain, swapped = (retell(expert, model, "", renaming) for renaming in ({}, SWAP))
        for t in range(len(plain.turns)):
            read, other = (tokenizer().decode(e.prompt(t)) for e in (plain, swapped))
            assert other == rename(read, SWAP)
            assert swapped.turns[t].text == rename(plain.turns[t].text, SWAP)


def test_noise_is_context_that_is_not_trained() -> None:
    episodes = [e for e in played(ExpertAgent(noise=0.6), n=20) if e.success]
    told = [retell(e, models(), "", {}) for e in episodes]
    assert [[t.trained for t in e.turns] for e in told] == [
        [t.trained for t in e.turns] for e in episodes
    ]
    assert any(not t.trained for e in told for t in e.turns)
    assert all(t.response_ids for e in told for t in e.turns)


def test_the_prompt_shows_the_worlds_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = [{"type": "function", "function": {"name": "act"}}]
    seen = []
    model = models()

    def chat(instructions: str, tools: Any) -> Chat:
        seen.append((instructions, tools))
        return LanguageAgent.chat(model, "", None)

    monkeypatch.setattr(model, "chat", chat)
    retell(played(ExpertAgent(), n=1)[0], model, "rules", {}, tools)
    assert seen == [("rules", tools)]


@pytest.mark.parametrize(
    ("parser", "shown"),
    [
        ({"name": "line"}, ""),
        ({"name": "tool_call"}, ""),
        ({"name": "tool_call", "tool": "search"}, "[search]"),
    ],
    ids=["line", "another tool", "its tool"],
)
def test_only_tools_whose_calls_are_understood_are_shown(
    parser: dict[str, str], shown: str
) -> None:
    model = agent(FakeEngine(perfect), parser=parser)
    model.tokenizer = copy.deepcopy(tokenizer())
    listed = "{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}"
    model.tokenizer.chat_template = listed + model.tokenizer.chat_template
    tools = [{"type": "function", "function": {"name": name}} for name in ("search", "answer")]
    prompt = model.tokenizer.decode(model.chat("", tools).observe("Now red").new_ids)
    assert prompt.startswith(f"{shown}<|im_start|>")
