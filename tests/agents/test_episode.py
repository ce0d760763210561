"""Episode: nothing is lost on the way through JSON, and prompts are put together verbatim."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from turnrl.agents.episode import Episode, Group, StopReason, Turn, episodes_of
from turnrl.envs import Task

text = st.text(max_size=8)
ids = st.lists(st.integers(0, 99), max_size=4)
number = st.floats(allow_nan=False, allow_infinity=False)
maybe = st.none() | number

turns = st.builds(
    Turn,
    prompt_ids=ids,
    extends=st.booleans(),
    response_ids=ids,
    logprobs=st.lists(number, max_size=4),
    text=text,
    action=st.none() | text,
    observation=text,
    env_reward=number,
    valid_action=st.booleans(),
    invalid_reason=st.none() | text,
    finish_reason=st.sampled_from(["stop", "length"]),
    trained=st.booleans(),
    version=st.integers(),
    repeated=st.integers(),
    score=maybe,
    progress=maybe,
    milestones=st.lists(text, max_size=2),
    rewards=st.dictionaries(text, number, max_size=2),
    signals=st.dictionaries(text, number, max_size=2),
    advantage=maybe,
)
tasks = st.builds(
    Task,
    env=text,
    params=st.dictionaries(text, st.integers() | text | st.booleans(), max_size=2),
    seed=st.integers(0, 2**62),
    split=st.sampled_from(["train", "valid", "test"]),
)
episodes = st.builds(
    Episode,
    task=tasks,
    opening=text,
    turns=st.lists(turns, max_size=3),
    stop=st.sampled_from(StopReason),
    success=st.booleans(),
    start_progress=maybe,
    answer=st.none() | st.lists(text, max_size=2),
    closing_ids=ids,
    closing_extends=st.booleans(),
    error=st.none() | text,
    seconds=number,
)


@settings(max_examples=60)
@given(episodes)
def test_json_round_trip(episode: Episode) -> None:
    told = episode.to_json()
    assert Episode.from_json(json.loads(json.dumps(told))) == episode
    for turn, written in zip(episode.turns, told["turns"], strict=True):
        assert ("signals" in written) == bool(turn.signals)


@settings(max_examples=60)
@given(st.lists(st.tuples(ids, ids, st.booleans()), min_size=1, max_size=5))
def test_prompt_is_what_a_growing_chat_would_hold(
    parts: list[tuple[list[int], list[int], bool]],
) -> None:
    seen: list[list[int]] = []
    chat: list[int] = []
    made = []
    for t, (new, response, extends) in enumerate(parts):
        extends = extends and t > 0
        chat = [*chat, *new] if extends else list(new)
        seen.append(chat)
        chat = chat + response
        made.append(Turn(new, extends, response, []))
    episode = Episode(Task(env="toy/made-v0", seed=0), turns=made)
    assert [episode.prompt(t) for t in range(len(parts))] == seen
    assert episode.response_tokens == sum(len(response) for _, response, _ in parts)


def test_failure_and_truncation_are_disjoint_kinds_of_stop() -> None:
    failed = {stop for stop in StopReason if stop.failed}
    truncated = {stop for stop in StopReason if stop.truncated}
    lost = {
        StopReason.ENV_ERROR,
        StopReason.ENV_TIMEOUT,
        StopReason.ENGINE_ERROR,
        StopReason.UNPLAYABLE,
        StopReason.BUDGET,
    }
    assert failed == lost
    assert truncated == {
        StopReason.TURN_LIMIT,
        StopReason.CURRICULUM_LIMIT,
        StopReason.CONTEXT_LIMIT,
    }


def test_groups_keep_their_order() -> None:
    task = Task(env="toy/made-v0", seed=0)
    a, b, c = (Episode(task, opening=name) for name in "abc")
    assert episodes_of([Group(task, [a, b]), Group(task, []), Group(task, [c])]) == [a, b, c]
    assert len(Group(task, [a, b])) == 2
