"""Every family of worlds is played through a server, and what the server does is told apart."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import turnrl
from turnrl import Episode
from turnrl.agents.evaluation import Evaluation

from .fake_model import call, expert, failing, text
from .fake_server import Answer, Reply, direct, serving  # noqa: F401

TASKS = 4
WORLDS: dict[str, tuple[str, dict[str, Any]]] = {
    "textworld/quest-v0": ("textworld", {}),
    "textworld/cooking-v0": ("textworld", {}),
    "household/place-v0": ("alfworld", {}),
    "scienceworld/task-v0": ("scienceworld", {"task": "lifespan-longest-lived"}),
    "search/qa-v0": ("bm25s", {"pages": 300}),
    "shopping/webshop-v0": ("tantivy", {"products": 300}),
    "shopping/assistant-v0": ("tantivy", {"products": 300}),
}


@cache
def played_by_the_expert(env: str) -> tuple[Episode, ...]:
    """Its episodes, each of which is won."""
    package, params = WORLDS[env]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    episodes: list[Episode] = []
    turnrl.evaluate(env, "expert", params=params, tasks=TASKS, episodes=episodes, progress=False)
    assert [episode.success for episode in episodes] == [True] * TASKS
    return tuple(episodes)


def measured(env: str, model: Answer, **options: Any) -> Evaluation:
    """A player's result through a real server on this machine."""
    with serving(model) as server:
        return turnrl.evaluate(
            env,
            "openai:m",
            params=WORLDS[env][1],
            tasks=TASKS,
            server={"url": server.url, "retries": 1},
            progress=False,
            **options,
        )


SAY: dict[str, Callable[[str], Reply]] = {
    "line": text,
    "tags": lambda action: text(f"<action>{action}</action>"),
    "tool_call": call,
}
"""How a model says an action, by the parser that reads it."""


@pytest.mark.parametrize("env", WORLDS)
@pytest.mark.parametrize("parser", SAY)
def test_the_expert_s_actions_win_every_game(env: str, parser: str) -> None:
    model = expert(played_by_the_expert(env), SAY[parser])
    result = measured(env, model, changes={"parser": {"name": parser}})
    assert (result.success, result.n, result.failed) == (1.0, TASKS, {})


@pytest.mark.parametrize("env", WORLDS)
def test_garbage_wins_no_game_and_fails_none(env: str) -> None:
    played_by_the_expert(env)
    result = measured(env, lambda body: text("Well.\nLet me see.\n"), max_turns=3)
    assert (result.success, result.n, result.failed) == (0.0, TASKS, {})
    assert result.invalid_rate == 1.0


@pytest.mark.parametrize("env", WORLDS)
def test_requests_that_fail_for_good_lose_their_episodes_and_no_other(env: str) -> None:
    episodes = played_by_the_expert(env)
    half = [episode.opening for episode in episodes[::2]]
    result = measured(env, failing(expert(episodes), half, Reply(500, "out of order")))
    assert (result.success, result.n, result.failed) == (1.0, 2, {"engine_error": 2})
    assert not result.whole
    assert [task.success for task in result.tasks] == [None, True, None, True]
    for task in result.tasks[::2]:
        assert task.error == "unavailable: status 500: out of order"
