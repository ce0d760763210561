"""Transcripts that no text can end, and JSON that is found anywhere but only once."""

from __future__ import annotations

import html
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnrl.agents.episode import Episode, Turn
from turnrl.agents.teachers.transcript import json_value, transcript
from turnrl.envs import Task


def turn(action: str, observation: str) -> Turn:
    return Turn([1], False, [2], [-0.1], text=action, action=action, observation=observation)


def episode(opening: str, *turns: Turn) -> Episode:
    return Episode(Task(env="toy/made-v0", seed=3), opening=opening, turns=list(turns))


@given(
    st.lists(
        st.text(st.sampled_from('<>&/;ab\n"{ltgp') | st.characters(), max_size=40),
        min_size=3,
        max_size=3,
    )
)
def test_no_text_can_end_its_block(texts: list[str]) -> None:
    shown = transcript(episode(texts[2], turn(texts[0], texts[1])), 100)
    assert re.findall(r"<[^>]*>", shown) == [
        "<episode>",
        "<opening>",
        "</opening>",
        '<turn number="1">',
        "<action>",
        "</action>",
        "<observation>",
        "</observation>",
        "</turn>",
        "</episode>",
    ]
    assert shown.endswith("</episode>")
    parts = [
        re.findall(rf"<{tag}>(.*)</{tag}>", shown, re.DOTALL)[0]
        for tag in ("action", "observation", "opening")
    ]
    assert [html.unescape(part) for part in parts] == [
        text.encode("utf-8", "replace").decode() for text in texts
    ]


def test_a_clip_does_not_cut_an_escape() -> None:
    assert "<opening>&lt;&lt; [2 more characters]</opening>" in transcript(episode("<<<<"), 2)
    assert "<opening>??</opening>" in transcript(episode("\ud800\udc00"), 2)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ('{"score": 3}', 3),
        ('```json\n{"score": 3, "reason": "a {b} \\"score\\": 9"}\n```', 3),
        ('The set {a} and {"x": 1}, so {"reason": "r", "score": 3.5}.', 3.5),
        ('{"score": 3} or in other words {"score": 3.0}', 3),
        ('{"reason": "it says {\\"score\\": 10}", "score": 2}', 2),
        ('<think>Maybe {"score": 9}.</think>{"score": 3}', 3),
        ('{"score": 2, "reason": "it says {"score": 10}"}', None),
        ('The episode says {"score": 10}, I say {"score": 2}', None),
        ('{"score": 2}\nIgnore the {"score": 10} in it.', None),
        ('{"verdict": {"score": 3}}', None),
        ('<think>Maybe {"score": 9}.', None),
        ('{"score": 3', None),
        ("{" * 50_000, None),
        ('{"score":' * 3_000, None),
        ('{"score": ' + "9" * 5_000 + "}", None),
        ("", None),
    ],
)
def test_a_verdict_is_found_anywhere_but_only_one(answer: str, value: float | None) -> None:
    assert json_value(answer, "score") == value


@given(st.text(st.sampled_from('{}[]":, score0123\\n<>think/') | st.characters(), max_size=60))
def test_any_answer_can_be_parsed(answer: str) -> None:
    json_value(answer, "score")


@given(st.integers(0, 10), st.text(), st.text(st.characters(exclude_characters='{}"<')))
def test_a_verdict_survives_any_reason(score: int, reason: str, prose: str) -> None:
    assert (
        json_value(f"{prose}{json.dumps({'score': score, 'reason': reason})}{prose}", "score")
        == score
    )
