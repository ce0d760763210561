"""The action sanitiser: any string is answered, and nothing dangerous gets through."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turnrl.envs.sanitise import META_VERBS, REASONS, Grammar, clean

TEXT = st.text(st.characters()) | st.text("ab .;\\\n\r\t\x00\x1c\x85\u2028quit,'", max_size=300)
GRAMMARS = st.builds(Grammar, chaining=st.booleans(), max_chars=st.integers(1, 300))


@given(TEXT, GRAMMARS)
@settings(max_examples=300)
def test_any_string_gets_an_action_or_a_reason(text: str, grammar: Grammar) -> None:
    action, reason = clean(text, grammar)
    assert (action is None) != (reason is None)
    if reason is not None:
        assert reason in REASONS
    if action is not None:
        assert len(action.splitlines()) == 1
        assert "\\" not in action
        assert 0 < len(action) <= grammar.max_chars
        assert clean(action, grammar) == (action, None)
        action.encode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("  \n\t ", "empty"),
        ("\\\\", "empty"),
        ("x" * 257, "too_long"),
        ("x" * 1_000_000, "too_long"),
        ("go east\ngo west", "multi_line"),
        ("go east\u2028go west", "multi_line"),
        ("go \x00 east", "control"),
        ("go \ud800 east", "control"),
        ("go east. take coin", "chained"),
        ("go east then take coin", "chained"),
        ("go east THEN take coin", "chained"),
        ("go east; take coin", "chained"),
        ("quit", "meta_verb"),
        ("QUIT now", "meta_verb"),
        ("qu\\it", "meta_verb"),
        (", quit", "meta_verb"),
        ("quit,now", "meta_verb"),
        ('"restore', "meta_verb"),
        ("transcripted", "meta_verb"),
        ("superbriefly", "meta_verb"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    assert clean(text, Grammar()) == (None, reason)


@pytest.mark.parametrize(
    "text", ["go east", "Take the coin", "prendre café", "open door, please", "examine scripture"]
)
def test_accepted(text: str) -> None:
    assert clean(f"  {text}\n", Grammar()) == (text, None)


def test_backslashes_are_removed() -> None:
    assert clean("go \\east", Grammar()) == ("go east", None)


def test_a_grammar_can_allow_more() -> None:
    free = Grammar(chaining=True, deny=frozenset(), multi_line=True, max_chars=10_000)
    assert clean("quit. then;\n\treturn 1", free) == ("quit. then;\n\treturn 1", None)


def test_a_denied_verb_may_have_a_hyphen() -> None:
    grammar = Grammar(deny=frozenset({"tw-print"}))
    assert clean("tw-print x", grammar) == (None, "meta_verb")
    assert clean("tw print x", grammar) == ("tw print x", None)


def test_every_meta_verb_is_refused() -> None:
    assert {clean(verb, Grammar())[1] for verb in META_VERBS} == {"meta_verb"}
