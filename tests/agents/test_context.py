"""Contexts: what is shown at each turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnrl import UserError
from turnrl.agents.context.base import CONTEXTS, History, Message, assistant, user
from turnrl.agents.context.full_history import FullHistory
from turnrl.agents.context.sliding_window import SlidingWindow


def history(turns: int, system: str = "Rules.") -> History:
    return History(system, [f"o{t}" for t in range(turns + 1)], [f"r{t}" for t in range(turns)])


def text(messages: list[Message]) -> str:
    return " ".join(m["content"] for m in messages)


def test_full_history_shows_everything_in_order() -> None:
    assert FullHistory().messages(history(2)) == [
        {"role": "system", "content": "Rules."},
        user("o0"),
        assistant("r0"),
        user("o1"),
        assistant("r1"),
        user("o2"),
    ]
    assert FullHistory().messages(history(0, system="")) == [user("o0")]


def test_sliding_window_layout() -> None:
    assert SlidingWindow(turns=2).messages(history(5, system="")) == [
        user("o0\n\n(3 turns left out)\n\no3"),
        assistant("r3"),
        user("o4"),
        assistant("r4"),
        user("o5"),
    ]
    assert SlidingWindow(turns=0).messages(history(1, system="")) == [
        user("o0\n\n(1 turn left out)\n\no1")
    ]


@given(turns=st.integers(0, 8), window=st.integers(0, 9), system=st.sampled_from(["", "Rules."]))
def test_window_invariants(turns: int, window: int, system: str) -> None:
    past = history(turns, system)
    messages = SlidingWindow(turns=window).messages(past)
    assert past == history(turns, system)
    assert messages == SlidingWindow(turns=window).messages(past)
    roles = [m["role"] for m in messages if m["role"] != "system"]
    assert roles == ["user" if i % 2 == 0 else "assistant" for i in range(len(roles))]
    shown = text(messages)
    assert "o0" in shown
    assert f"o{turns}" in shown
    assert [r for r in past.responses if r in shown] == past.responses[max(0, turns - window) :]
    if turns <= window:
        assert messages == FullHistory().messages(past)


def test_contexts_are_found_by_name() -> None:
    assert CONTEXTS.build({"name": "full_history"}) == FullHistory()
    assert CONTEXTS.build({"name": "sliding_window", "turns": 3}) == SlidingWindow(turns=3)
    with pytest.raises(UserError, match="turns"):
        CONTEXTS.build({"name": "sliding_window", "turns": -1})
    with pytest.raises(UserError, match="did you mean 'turns'"):
        CONTEXTS.build({"name": "sliding_window", "turn": 1})
