"""Players behind a server: what is sent, what is kept, what fails, and what it may cost."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import turnrl
from turnrl import Episode, UserError
from turnrl.agents.episode import Group, StopReason
from turnrl.agents.evaluation import Evaluation
from turnrl.training.batch import TokenBatch

from ..logged import nothing_logged
from ..toy_world import COLOURS
from .fake_engine import tokenizer
from .fake_model import USAGE, Body, call, chat, failing, text
from .fake_server import Answer, Reply, Server, direct, serving  # noqa: F401

KEY = "sk-live-0123456789abcdef"


def light(body: Body) -> str:
    """The colour that the world shows now."""
    last = str(body["messages"][-1]["content"])
    return max(COLOURS, key=lambda colour: last.rfind(colour))


def wins(body: Body) -> Reply:
    return text(light(body))


def measured(server: Server, **options: Any) -> Evaluation:
    """The result of four games of three lights."""
    limits = {"retries": 0} | options.pop("limits", {})
    return turnrl.evaluate(
        "toy/lights-v0",
        "openai:m",
        server={"url": server.url, **limits},
        **{"tasks": 4, "progress": False, **options},
    )


# -- what is sent ----------------------------------------------------------------------------------


def test_a_model_is_sent_the_conversation_and_plays_it_to_its_end() -> None:
    with serving(wins) as server, nothing_logged():
        result = measured(server, tasks=1, temperature=0.5, seed=3)
    assert (result.success, result.n, result.agent, result.temperature) == (
        *(1.0, 1, "openai:m", 0.5),
    )
    first, second, third = server.requests
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert first["messages"][0]["content"].startswith("Say the colour of the light")
    assert second["messages"][:2] == first["messages"]
    assert [message["role"] for message in third["messages"][2:]] == ["assistant", "user"] * 2
    sent = {key: first[key] for key in ("model", "max_tokens", "temperature", "top_p")}
    assert sent == {"model": "m", "max_tokens": 1024, "temperature": 0.5, "top_p": 1.0}
    assert "tools" not in first
    assert len({request["seed"] for request in server.requests}) == 3


def test_equal_seeds_send_equal_requests() -> None:
    def sent(seed: int) -> list[Body]:
        with serving(wins) as server:
            measured(server, seed=seed, limits={"concurrency": 1})
        return server.requests

    assert sent(1) == sent(1)
    assert sent(1) != sent(2)


def test_real_calls_go_back_as_the_calls_that_they_were() -> None:
    with serving(lambda body: call(light(body), content="I see.")) as server:
        episodes: list[Episode] = []
        changes = {"parser": {"name": "tool_call"}}
        result = measured(server, tasks=1, changes=changes, episodes=episodes)
    assert result.success == 1.0
    first, second, third = server.requests
    [offered] = first["tools"]
    assert offered["function"]["name"] == "act"
    assert list(offered["function"]["parameters"]["properties"]) == ["action"]
    assert (first["tool_choice"], first["parallel_tool_calls"]) == ("required", False)
    assert "<tool_call>" not in json.dumps(first)
    called, answered = second["messages"][2:]
    assert (called["role"], called["content"]) == ("assistant", "I see.")
    [made] = called["tool_calls"]
    assert (made["type"], made["function"]["name"]) == ("function", "act")
    assert json.loads(made["function"]["arguments"]) == {"action": light(first)}
    assert answered == {
        "role": "tool",
        "tool_call_id": made["id"],
        "content": episodes[0].turns[0].observation,
    }
    ids = [m["tool_call_id"] for m in third["messages"] if m["role"] == "tool"]
    assert len(set(ids)) == 2
    assert [turn.action for turn in episodes[0].turns] == [light(r) for r in server.requests]


def test_two_calls_are_none_and_both_get_their_result() -> None:
    episodes: list[Episode] = []
    with serving(lambda body: call("red", "blue")) as server:
        changes = {"parser": {"name": "tool_call"}}
        measured(server, tasks=1, max_turns=2, changes=changes, episodes=episodes)
    assert [turn.action for turn in episodes[0].turns] == [None, None]
    results = [m for m in server.requests[1]["messages"] if m["role"] == "tool"]
    assert len({m["tool_call_id"] for m in results}) == 2
    assert {m["content"] for m in results} == {"Invalid answer: Answer with one call of the tool."}


def test_a_call_that_is_only_written_is_read_too() -> None:
    def writes(body: Body) -> Reply:
        action = json.dumps({"name": "act", "arguments": {"action": light(body)}})
        return text(f"<tool_call>{action}</tool_call>")

    with serving(writes) as server:
        result = measured(server, changes={"parser": {"name": "tool_call"}})
    assert result.success == 1.0


# -- what a server takes ---------------------------------------------------------------------------


def picky(*refused: str, say: str = "Unrecognized request argument supplied: {}") -> Answer:
    """A server that takes none of these fields."""

    def answer(body: Body) -> Reply:
        found = [key for key in refused if key in body]
        if found:
            message = say.format(", ".join(found))
            return Reply(400, json.dumps({"error": {"message": message}}))
        return wins(body)

    return answer


@pytest.mark.parametrize("say", ["Unrecognized request argument supplied: {}", "Bad request"])
def test_a_server_without_token_ids_is_asked_without(say: str) -> None:
    with serving(picky("return_token_ids", "top_k", say=say)) as server:
        result = measured(server, limits={"concurrency": 1})
    assert (result.success, result.failed) == (1.0, {})
    assert len(server.requests) == 4 * 3 + 1, "it is found out once"
    assert not {"top_k", "min_p", "logprobs", "return_token_ids"} & server.requests[-1].keys()


def test_what_is_as_usual_or_free_is_left_out_where_it_is_refused() -> None:
    with serving(picky("temperature", "top_p", "seed")) as server:
        assert measured(server).success == 1.0
    assert not {"temperature", "top_p", "seed"} & server.requests[-1].keys()


def test_models_that_reason_are_told_their_limit_by_another_name() -> None:
    say = "Unsupported parameter: '{}'. Use 'max_completion_tokens' instead."
    with serving(picky("max_tokens", say=say)) as server:
        assert measured(server, changes={"max_tokens": 77}).success == 1.0
    last = server.requests[-1]
    assert (last.get("max_tokens"), last["max_completion_tokens"]) == (None, 77)


def test_a_temperature_that_was_asked_for_is_never_left_out() -> None:
    with serving(picky("temperature")) as server:
        result = measured(server, temperature=0.5)
    assert (result.n, result.failed) == (0, {"engine_error": 4})
    assert all(request["temperature"] == 0.5 for request in server.requests)


def test_what_is_too_long_for_the_model_ends_the_episode_and_fails_nothing() -> None:
    def short(body: Body) -> Reply:
        if len(body["messages"]) > 4:
            return Reply(
                400,
                '{"message": "\'max_tokens\' is too large: the maximum context '
                'length is 64 tokens"}',
            )
        return wins(body)

    with serving(short) as server:
        result = measured(server)
    assert (result.success, result.stops, result.failed) == (0.0, {"context_limit": 4}, {})
    assert all("max_tokens" in request for request in server.requests)


# -- what fails ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_is_one_sentence(status: int) -> None:
    with (
        serving(lambda body: Reply(status, '{"error": {"message": "no\\nway"}}')) as server,
        pytest.raises(UserError, match=f"the player at .* status {status}: no way") as caught,
    ):
        measured(server)
    assert "\n" not in str(caught.value)


def test_a_key_that_is_withdrawn_fails_episodes_and_not_the_run() -> None:
    def withdrawn(body: Body) -> Reply:
        return wins(body) if len(server.requests) <= 3 else Reply(401, "no more")

    with serving(withdrawn) as server:
        result = measured(server, limits={"concurrency": 1})
    assert (result.success, result.n, result.failed) == (1.0, 1, {"engine_error": 3})


BROKEN: dict[str, Reply] = {
    "refuses": Reply(400, "no"),
    "is broken": Reply(500, "no"),
    "is always busy": Reply(429, "later"),
    "hangs up": Reply(0),
    "answers in HTML": Reply(body="<html>"),
    "answers without a choice": Reply(body='{"choices": []}'),
    "answers without a message": Reply(body='{"choices": [{"text": "red"}]}'),
    "answers with a number": chat({"content": 7}),
    "answers without content": chat({"role": "assistant"}),
    "calls nothing": chat({"content": None, "tool_calls": [{"function": {}}]}),
    "withholds the answer": chat({"content": None}, "content_filter"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_server_that_fails_loses_its_episodes_by_name(what: str) -> None:
    tasks = turnrl.make("toy/lights-v0").tasks("test")[:4]
    episodes: list[Episode] = []
    turnrl.evaluate("toy/lights-v0", "expert", tasks=4, episodes=episodes, progress=False)
    lost = {episodes[1].opening, episodes[2].opening}
    with serving(failing(wins, lost, BROKEN[what])) as server:
        result = measured(server, limits={"concurrency": 1})
    failed = [task.task for task in result.tasks if task.stop == "engine_error"]
    assert failed == [t.id for t, e in zip(tasks, episodes, strict=True) if e.opening in lost]
    assert result.failed == {"engine_error": len(failed)}
    assert (result.success, result.n) == (1.0, 4 - len(failed))


def test_a_response_of_nothing_is_the_model_s_own() -> None:
    with serving(lambda body: chat({"content": None}, "length")) as server:
        result = measured(server, max_turns=2)
    assert (result.success, result.n, result.invalid_rate) == (0.0, 4, 1.0)


def test_retry_after_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def short(seconds: float, *result: Any) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", short)
    busy = iter(
        [Reply(429, headers={"Retry-After": "17"}), Reply(503, headers={"Retry-After": "5"})]
    )
    with serving(lambda body: next(busy, None) or wins(body)) as server:
        result = measured(server, tasks=1, limits={"retries": 2})
    assert result.success == 1.0
    assert [wait for wait in waits if wait >= 1] == [17.0, 5.0]
    assert result.server is not None
    assert (result.server.requests, result.server.failed_requests) == (3, 2)


def test_no_more_requests_at_once_than_were_asked_for() -> None:
    with serving(wins) as server:
        measured(server, tasks=8, concurrency=2)
    assert server.busiest <= 2


# -- what it costs ---------------------------------------------------------------------------------


def test_tokens_cost_and_time_stand_in_the_result() -> None:
    usage = USAGE | {"prompt_tokens_details": {"cached_tokens": 40}}
    with serving(lambda body: text(light(body), usage=usage)) as server:
        result = measured(server, limits={"price_in": 2.0, "price_out": 10.0})
    use = result.server
    assert use is not None
    counts = use.requests, use.prompt_tokens, use.cached_tokens, use.written_tokens
    assert counts == (12, 1200, 480, 120)
    assert use.cost_usd == pytest.approx((1200 * 2 + 120 * 10) / 1e6)
    assert use.seconds_p50 is not None
    assert use.seconds_p95 is not None
    assert 0 < use.seconds_p50 <= use.seconds_p95
    assert (use.url, use.model, use.budget_spent) == (server.url, "m", False)
    assert result.tokens == 30, "three responses of ten tokens an episode"
    assert Evaluation.model_validate_json(result.model_dump_json()).server == use


def test_a_budget_of_tokens_ends_the_run_with_what_it_has() -> None:
    with serving(wins) as server:
        result = measured(server, limits={"concurrency": 1, "budget_tokens": 500})
    assert len(server.requests) == 5, "550 tokens, and no request after them"
    assert (result.success, result.n, result.cut, result.unplayed) == (1.0, 1, 1, 2)
    assert (result.failed, [task.stop for task in result.tasks]) == (
        *({}, ["won", "budget", "budget", "budget"]),
    )
    assert result.server is not None
    assert result.server.budget_spent
    assert result.trouble is not None
    assert "2 of 4 tasks were not played" in result.trouble
    assert "1 cut by the end of the budget" in result.trouble


def test_a_budget_of_money_ends_the_run_with_what_it_has() -> None:
    # A request costs 100 * 5 + 10 * 50 = 1000 millionths of a dollar; the seventh is not made.
    limits = {"concurrency": 1, "price_in": 5.0, "price_out": 50.0, "budget_usd": 0.006}
    with serving(wins) as server:
        result = measured(server, limits=limits)
    assert len(server.requests) == 6
    assert (result.n, result.cut, result.unplayed) == (2, 0, 2)
    assert result.whole, "two whole games were measured, and no game was cut"


def test_a_budget_that_is_spent_begins_no_more_worlds() -> None:
    episodes: list[Episode] = []
    with serving(wins) as server:
        limits = {"concurrency": 1, "budget_tokens": 1}
        measured(server, limits=limits, episodes=episodes)
    assert [episode.stop for episode in episodes] == [StopReason.BUDGET] * 4
    assert [bool(episode.opening) for episode in episodes] == [True, False, False, False]


def test_a_budget_needs_a_server_that_counts() -> None:
    with (
        serving(lambda body: text(light(body), usage=None)) as server,
        pytest.raises(UserError, match="a budget cannot be kept"),
    ):
        measured(server, limits={"budget_tokens": 500})


# -- tokens ----------------------------------------------------------------------------------------


def told(body: Body) -> Reply:
    """A response with token ids: one id per character, a stop token, and log-probabilities."""
    said = light(body)
    prompt = [ord(c) for m in body["messages"] for c in f"{m['content']}\n"]
    ids = [*map(ord, said), 10]
    logprobs = {"content": [{"token": "x", "logprob": -i / 8} for i in range(len(ids))]}
    return text(said, token_ids=ids, logprobs=logprobs, prompt_token_ids=prompt)


def test_token_ids_and_logprobs_are_kept_where_they_are_told() -> None:
    episodes: list[Episode] = []
    with serving(told) as server:
        result = measured(server, tasks=1, episodes=episodes)
    [episode] = episodes
    sent = [json.loads(told(body).body)["choices"][0] for body in server.requests]
    assert [turn.response_ids for turn in episode.turns] == [one["token_ids"] for one in sent]
    assert [episode.prompt(t) for t in range(3)] == [one["prompt_token_ids"] for one in sent]
    assert [turn.extends for turn in episode.turns] == [False, True, True]
    assert [turn.logprobs for turn in episode.turns] == [
        [p["logprob"] for p in one["logprobs"]["content"]] for one in sent
    ]
    assert result.tokens == sum(len(one["token_ids"]) for one in sent)


def test_what_was_told_can_be_trained_on() -> None:
    episodes: list[Episode] = []
    with serving(told) as server:
        measured(server, tasks=2, episodes=episodes)
    batch = TokenBatch.pack([Group(episode.task, [episode]) for episode in episodes])
    assert batch.turn_BL.shape[0] == 2, "each episode is one sequence"
    for row, episode in enumerate(episodes):
        for t, turn in enumerate(episode.turns):
            own = batch.turn_BL[row] == t
            assert batch.tokens_BL[row][own].tolist() == turn.response_ids
            assert batch.logprobs_of("engine")[row][own].tolist() == turn.logprobs


def test_a_rewritten_prompt_begins_a_new_sequence() -> None:
    episodes: list[Episode] = []
    with serving(told) as server:
        changes = {"context": {"name": "sliding_window", "turns": 0}}
        measured(server, tasks=1, changes=changes, episodes=episodes)
    sent = [json.loads(told(body).body)["choices"][0] for body in server.requests]
    assert [turn.extends for turn in episodes[0].turns] == [False, False, False]
    assert [episodes[0].prompt(t) for t in range(3)] == [one["prompt_token_ids"] for one in sent]
    assert all(turn.repeated < len(turn.prompt_ids) for turn in episodes[0].turns)


def test_logprobs_that_may_be_of_another_temperature_are_not_kept() -> None:
    episodes: list[Episode] = []
    with serving(told) as server:
        measured(server, tasks=1, temperature=0.5, episodes=episodes)
    assert all(not turn.response_ids and not turn.logprobs for turn in episodes[0].turns)


LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "fewer log-probabilities": lambda choice: choice["logprobs"]["content"].pop(),
    "a probability above one": lambda choice: choice["logprobs"]["content"][0].update(logprob=1.0),
    "no probability": lambda choice: choice["logprobs"]["content"][0].clear(),
    "ids that are none": lambda choice: choice["token_ids"].__setitem__(0, -1),
    "no prompt": lambda choice: choice.pop("prompt_token_ids"),
    "an empty prompt": lambda choice: choice["prompt_token_ids"].clear(),
}


@pytest.mark.parametrize("lie", LIES)
def test_tokens_that_cannot_be_are_left_alone_and_the_answer_counts(lie: str) -> None:
    def lies(body: Body) -> Reply:
        data = json.loads(told(body).body)
        LIES[lie](data["choices"][0])
        return Reply(body=json.dumps(data))

    episodes: list[Episode] = []
    with serving(lies) as server:
        assert measured(server, episodes=episodes).success == 1.0
    assert all(not turn.response_ids for episode in episodes for turn in episode.turns)


def by_tokens(tokenizer: Any) -> dict[str, Answer]:
    """A server that wins, and takes and tells nothing but token ids."""

    def complete(body: Body) -> Reply:
        words = tokenizer.decode(body["prompt"])
        said = max(COLOURS, key=words.rfind)
        ids = [*tokenizer.encode(said, add_special_tokens=False), body["stop_token_ids"][0]]
        choice = {"token_ids": ids, "finish_reason": "stop", "prompt_token_ids": body["prompt"]}
        choice["logprobs"] = {"token_logprobs": [-i / 8 for i in range(len(ids))]}
        return Reply(body=json.dumps({"choices": [choice], "usage": USAGE}))

    models = {"data": [{"id": "m", "max_model_len": 1000}]}
    return {"/completions": complete, "/models": lambda body: Reply(body=json.dumps(models))}


def test_with_a_tokenizer_prompts_are_token_ids(tmp_path: Path) -> None:
    words = tokenizer()
    words.save_pretrained(tmp_path)
    episodes: list[Episode] = []
    with serving(by_tokens(words)) as server:
        limits = {"tokenizer": str(tmp_path), "price_in": 1.0, "price_out": 1.0}
        result = measured(server, tasks=2, limits=limits, episodes=episodes)
    assert (result.success, result.n, result.max_context) == (1.0, 2, 999)
    assert result.server is not None
    assert result.server.requests == 6
    assert result.server.cost_usd == pytest.approx(660 / 1e6)
    sent = {tuple(body["prompt"]) for body in server.requests if body}
    assert {tuple(e.prompt(t)) for e in episodes for t in range(3)} == sent
    for episode in episodes:
        for turn in episode.turns:
            assert turn.logprobs == [-i / 8 for i in range(len(turn.response_ids))]
            assert words.decode(turn.response_ids[:-1]) == turn.action


def test_a_budget_ends_what_is_sent_as_token_ids_too(tmp_path: Path) -> None:
    words = tokenizer()
    words.save_pretrained(tmp_path)
    with serving(by_tokens(words)) as server:
        limits = {"tokenizer": str(tmp_path), "budget_tokens": 500, "concurrency": 1}
        result = measured(server, limits=limits)
    assert (result.n, result.cut, result.unplayed) == (1, 1, 2)


# -- secrets ---------------------------------------------------------------------------------------


def test_the_key_is_sent_and_stands_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    replies = iter(
        [
            text(f"You are {KEY}."),
            call(KEY),
            Reply(500, f"You sent {KEY}"),
            Reply(body=f"<html>{KEY}"),
            Reply(400, f"What is {KEY}?"),
        ]
    )
    episodes: list[Episode] = []
    with serving(lambda body: next(replies, None) or text(KEY)) as server:
        limits = {"api_key_env": "MY_KEY", "concurrency": 1}
        result = measured(server, limits=limits, max_turns=2, episodes=episodes)
        with pytest.raises(UserError) as refused, serving(lambda body: Reply(401, KEY)) as other:
            measured(other, limits=limits)
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert result.failed
    written = [json.dumps(episode.to_json()) for episode in episodes]
    seen = [result.model_dump_json(), *written, caplog.text, str(refused.value)]
    assert "[secret]" in "".join(seen)
    assert KEY not in "".join(seen)


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({}, "openai:m needs the address of its server"),
        ({"server": {"url": "localhost"}}, "server: url"),
        ({"server": {"url": "http://h/v1", "budget": 3}}, "server: unknown key 'budget'"),
        ({"server": {"url": "http://h/v1", "budget_usd": 3.0}}, "both prices"),
        ({"server": {"url": "http://h/v1", "price_in": 3.0}}, "both prices"),
        ({"server": {"url": "http://h/v1", "api_key_env": KEY}}, "never the key itself"),
        ({"server": {"url": "http://h/v1", "tokenizer": "/nowhere"}}, "holds no tokenizer"),
        ({"server": {"url": "http://h/v1"}, "agent": "random"}, "'random' has none"),
        ({"server": {"url": "http://h/v1"}, "agent": "openai:"}, "server: model"),
        (
            {"server": {"url": "http://h/v1"}, "changes": {"max_context": 64}},
            "has no max_context to change",
        ),
        ({"server": {"url": "http://h/v1"}, "changes": {"parser": {"name": "lin"}}}, "'line'"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_played(
    options: dict[str, Any], part: str
) -> None:
    asked: dict[str, Any] = {"env": "toy/lights-v0", "agent": "openai:m", "tasks": 1}
    with pytest.raises(UserError) as caught:
        turnrl.evaluate(**{**asked, "progress": False, **options})
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
