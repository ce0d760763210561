"""Parsers: never raise, and read back what they render."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnrl.agents.chat.reasoning import PAIRS
from turnrl.agents.parsers.base import PARSERS, Parsed, Parser
from turnrl.agents.parsers.line import Line
from turnrl.agents.parsers.tags import Tags
from turnrl.agents.parsers.tool_call import ToolCall
from turnrl.agents.parsers.verbs import Verbs

KINDS = Tags(thoughts=("planning", "explore", "reflection", "monitor"), require_think=True)
VERBS = Verbs(verbs=("search", "click"))
ALL = [Line(), VERBS, Tags(), Tags(require_think=True), KINDS, ToolCall(), ToolCall(tool="step")]
FRAGMENTS = [
    "<think>",
    "</think>",
    "<action>",
    "</action>",
    "<tool_call>",
    "</tool_call>",
    '{"name": "act", "arguments":',
    '{"action": "go north"}',
    "}",
    "{",
    "[" * 50,
    "go north",
    "\n",
    "\r",
    "\u2028",
    "\x00",
    "\ufffd",
    " ",
    "9" * 5000,
]
ACTIONS = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=12
).filter(lambda word: "<" not in word and all(tag not in word for pair in PAIRS for tag in pair))
"""Words without tags: one that opens reasoning makes reasoning of what follows."""


@pytest.mark.parametrize("parser", ALL)
@given(text=st.text() | st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5)).map("".join))
def test_parse_never_raises(parser: Parser, text: str) -> None:
    parsed = parser.parse(text)
    assert parsed.action is None or (parsed.action and parsed.action == parsed.action.strip())


@pytest.mark.parametrize("parser", ALL)
@given(words=st.lists(ACTIONS, min_size=1, max_size=4), thought=st.none() | ACTIONS)
def test_parse_reads_what_render_wrote(
    parser: Parser, words: list[str], thought: str | None
) -> None:
    action = " ".join(words)
    parsed = parser.parse(parser.render(action, thought))
    assert parsed.action == action
    if thought and not isinstance(parser, Line | Verbs):
        assert parsed.thought == thought


@pytest.mark.parametrize("parser", ALL)
def test_expects_is_one_sentence_and_rendering_ends_with_the_stop_string(parser: Parser) -> None:
    assert "\n" not in parser.expects
    assert len(parser.expects) < 160
    assert all(parser.render("go north").endswith(stop) for stop in parser.stop)


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("go north", "go north"),
        ("\n  go north \n\n", "go north"),
        ("go\nnorth", None),
        ("", None),
        (" \n ", None),
    ],
)
def test_line(text: str, action: str | None) -> None:
    assert Line().parse(text) == Parsed(action)


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("click buy now", "click[buy now]"),
        (" search  red shoes \n", "search[red shoes]"),
        ("click[buy now]", "click[buy now]"),
        ("click", "click"),
        ("look around", "look around"),
        ("clicks buy now", "clicks buy now"),
        ("click a\nclick b", None),
        ("", None),
    ],
)
def test_verbs(text: str, action: str | None) -> None:
    assert VERBS.parse(text) == Parsed(action)


@given(
    verb=st.sampled_from(["search", "click"]),
    argument=st.text(st.characters(codec="ascii", exclude_categories=["C"])),
)
def test_verbs_read_back_every_argument(verb: str, argument: str) -> None:
    action = f"{verb}[{argument}]"
    assert VERBS.parse(VERBS.render(action)).action == action


def test_verbs_leave_the_brackets_out_and_must_be_given() -> None:
    assert VERBS.render("click[buy now]") == "click buy now"
    assert VERBS.render("open[door]") == "open[door]"
    with pytest.raises(ValueError, match="verbs"):
        Verbs(verbs=())


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("<action>go</action>", Parsed("go")),
        (" <think> why </think>\n<action> go </action>\n", Parsed("go", "why")),
        ("<think></think><action>go</action>", Parsed("go")),
        ("<action>go</action><action>stay</action>", Parsed(None)),
        (
            "<think><action>no</action></think><action>go</action>",
            Parsed("go", "<action>no</action>"),
        ),
        ("<think>a</think><think>b</think><action>go</action>", Parsed("go", "a\nb")),
        ("<action>go", Parsed(None)),
        ("<action> </action>", Parsed(None)),
        ("I go. <action>go</action>", Parsed(None)),
        ("go", Parsed(None)),
    ],
)
def test_tags(text: str, parsed: Parsed) -> None:
    got = Tags().parse(text)
    assert got.action == parsed.action
    assert got.action is None or got == parsed


def test_tags_can_require_a_thought() -> None:
    strict = Tags(require_think=True)
    assert strict.parse("<action>go</action>").action is None
    assert strict.parse("<think> </think><action>go</action>").action is None
    assert strict.parse("<think>hm</think><action>go</action>") == Parsed("go", "hm")


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ('<tool_call>{"name": "act", "arguments": {"action": "go"}}</tool_call>', "go"),
        (
            (
                'I think.\n<tool_call>\n{"name": "act", "arguments": {"action": " go'
                ' "}}\n</tool_call>\n'
            ),
            "go",
        ),
        ('{"name": "act", "arguments": {"action": "go"}}', "go"),
        ('{"name": "act", "arguments": {"action": "say </tool_call>"}}', "say </tool_call>"),
        (
            '<tool_call>{"name": "act", "arguments": {"action": "a </tool_call> b"}}</tool_call>',
            "a </tool_call> b",
        ),
        ('<tool_call>{"name": "other", "arguments": {"action": "go"}}</tool_call>', None),
        ('<tool_call>{"name": "act", "arguments": {"action": 3}}</tool_call>', None),
        ('<tool_call>{"name": "act", "arguments": {"action": ""}}</tool_call>', None),
        ('<tool_call>{"name": "act", "arguments": "go"}</tool_call>', None),
        ('<tool_call>{"name": "act"}</tool_call>', None),
        ('<tool_call>{"name": "act", "arguments": {"action": "go"}}', "go"),
        ('<tool_call>{"name": "act", "arguments": {"action": "go"}}</tool_call> and more', "go"),
        ('<tool_call>{"name": "act", "arguments": {"action": "a"}}</tool_call>' * 2, None),
        ("[1]", None),
        ("null", None),
        ("[" * 100_000, None),
    ],
)
def test_tool_call(text: str, action: str | None) -> None:
    assert ToolCall().parse(text).action == action


def test_parsers_are_found_by_name() -> None:
    assert [PARSERS.build({"name": name}).name for name in ("line", "tags", "tool_call")] == [
        "line",
        "tags",
        "tool_call",
    ]


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        (
            "<explore>a door</explore><action>open it</action>",
            Parsed("open it", "a door", "explore"),
        ),
        ("<planning>first</planning> <action>go</action>", Parsed("go", "first", "planning")),
        ("<planning>first</explore><action>go</action>", Parsed(None)),
        ("<think>first</think><action>go</action>", Parsed(None)),
        ("<planning>a</planning><explore>b</explore><action>go</action>", Parsed(None)),
        ("<action>go</action>", Parsed(None)),
    ],
)
def test_kinds_of_reasoning_are_named(text: str, parsed: Parsed) -> None:
    got = KINDS.parse(text)
    assert got.action == parsed.action
    assert got.action is None or got == parsed


def test_kinds_are_rendered_and_must_be_words() -> None:
    assert KINDS.parse(KINDS.render("go", "why", "monitor")) == Parsed("go", "why", "monitor")
    assert KINDS.parse(KINDS.render("go")).tag == "planning"
    for wrong in ((), ("action",), ("a b",), ("<x>",)):
        with pytest.raises(ValueError, match="thoughts"):
            Tags(thoughts=wrong)
