"""The wire: what a context says arrives whole, and any answer is a response or a failure."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnrl.agents.context.base import CONTEXTS, History, shown
from turnrl.agents.hosted.wire import Said, Wired, read_said, wire_messages
from turnrl.agents.parsers.base import PARSERS
from turnrl.agents.teachers.endpoint_config import EndpointError
from turnrl.agents.teachers.meter import Meter, Usage, percentile
from turnrl.agents.teachers.reply import HttpReply

NAMES = st.sampled_from(["act", "look", ""])
CALLS = st.lists(st.tuples(NAMES, st.text(max_size=8)), max_size=3).map(tuple)
RESPONSES = st.builds(
    lambda content, calls: Said(content, calls, "stop", 0), st.text(max_size=8), CALLS
)
CONTEXT = st.sampled_from(
    [{"name": "full_history"}, *({"name": "sliding_window", "turns": n} for n in (0, 1, 2))]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "choices",
                        "message",
                        "content",
                        "tool_calls",
                        "function",
                        "name",
                        "arguments",
                    ),
                    *("usage", "prompt_tokens", "completion_tokens", "finish_reason", "logprobs"),
                    *("token_ids", "prompt_token_ids", "logprob"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


def results_of(wired: list[Wired]) -> None:
    """Every call is answered at once, in its order, and nothing else is a result."""
    waiting: list[str] = []
    for message in wired:
        if message["role"] == "tool":
            assert message["tool_call_id"] == waiting.pop(0)
            continue
        assert not waiting
        waiting = [call["id"] for call in message.get("tool_calls", [])]
    assert not waiting
    ids = [call["id"] for message in wired for call in message.get("tool_calls", [])]
    assert len(set(ids)) == len(ids)


@given(CONTEXT, st.lists(st.tuples(RESPONSES, st.text(max_size=8)), max_size=5), st.booleans())
def test_calls_and_results_belong_together_in_every_context(
    context: dict[str, Any], exchanges: list[tuple[Said, str]], system: bool
) -> None:
    history = History("Play." if system else "", ["Begin."])
    for said, observation in exchanges:
        history.responses.append(said.text)
        history.observations.append(observation)
    called = {said.text: said for said, _ in exchanges if said.calls}
    messages = shown(CONTEXTS.build(context), history)
    wired = wire_messages(messages, called)
    results_of(wired)
    asked = [message for message in wired if message["role"] == "assistant"]
    for message, before in zip(
        asked, [m["content"] for m in messages if m["role"] == "assistant"], strict=True
    ):
        if before in called:
            calls = [
                (c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]
            ]
            assert (message["content"] or "", tuple(calls)) == (
                called[before].content,
                called[before].calls,
            )
        else:
            assert message == {"role": "assistant", "content": before}


def test_without_calls_messages_are_sent_as_they_are() -> None:
    history = History("Play.", ["A \ud800.", "B", "C"], ["one", "two"])
    wired = wire_messages(shown(CONTEXTS.build({"name": "full_history"}), history), {})
    assert [(m["role"], m["content"]) for m in wired] == [
        ("system", "Play."),
        *(("user", "A ?."), ("assistant", "one"), ("user", "B"), ("assistant", "two")),
        ("user", "C"),
    ]


@given(JSON)
def test_any_json_is_a_response_or_a_failure(data: Any) -> None:
    for whole in (data, {"choices": [data]}, {"choices": [{"message": data}], "usage": data}):
        with contextlib.suppress(EndpointError):
            said = read_said(HttpReply(200, json.dumps(whole)), str)
            assert isinstance(said.text, str)
            assert said.written >= 0
            assert len(said.token_ids) == len(said.logprobs)


@pytest.mark.parametrize(
    ("arguments", "action"),
    [
        ('{"action": "go north"}', "go north"),
        ({"action": "go north"}, "go north"),
        ('{"action": "say \\"hi\\""}', 'say "hi"'),
        ('{"way": "north"}', "north"),
        ("{", None),
        ("[" * 100_000, None),
        ("{}", None),
        ('{"action": 3}', None),
    ],
)
def test_a_call_is_read_as_its_parser_reads_it(arguments: Any, action: str | None) -> None:
    call = {"function": {"name": "act", "arguments": arguments}}
    message = {"content": "I think.", "tool_calls": [call]}
    data = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    said = read_said(HttpReply(200, json.dumps(data)), str)
    parsed = PARSERS.build({"name": "tool_call"}).parse(said.text)
    assert (parsed.action, said.finish_reason) == (action, "stop")


def test_texts_are_cleaned_wherever_they_stand() -> None:
    call = {"function": {"name": "secret", "arguments": '{"secret": "secret"}'}}
    data = {"choices": [{"message": {"content": "secret", "tool_calls": [call]}}]}
    said = read_said(HttpReply(200, json.dumps(data)), lambda text: text.replace("secret", "x"))
    assert "secret" not in f"{said.text} {said.calls}"


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


def test_percentiles_of_few_and_of_none() -> None:
    assert percentile([], 0.5) is None
    assert [percentile([3.0, 1.0, 2.0], share) for share in (0.5, 0.95)] == [2.0, 3.0]


@given(JSON)
def test_any_usage_is_counts_or_none(data: Any) -> None:
    usage = Usage.of({"usage": data})
    meter = Meter(price_in=1.0, price_out=2.0)
    meter.add(usage)
    report = meter.report("u", "m")
    assert (report.prompt_tokens, report.written_tokens) == (
        (0, 0) if usage is None else (usage.prompt, usage.written)
    )
    assert report.cached_tokens <= report.prompt_tokens
