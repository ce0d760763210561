"""Reasoning: thought and answer of a response, in any tags, and every parser reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnrl.agents.chat.reasoning import PAIRS, continued, left_open, split
from turnrl.agents.parsers.base import Parser
from turnrl.agents.parsers.line import Line
from turnrl.agents.parsers.report import Report
from turnrl.agents.parsers.tags import Tags
from turnrl.agents.parsers.tool_call import ToolCall
from turnrl.agents.parsers.verbs import Verbs

KINDS = Tags(thoughts=("planning", "explore", "reflection", "monitor"))
PARSERS: list[Parser] = [Line(), Verbs(verbs=("search",)), Tags(), KINDS, Report(), ToolCall()]


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("go", None, "go"),
        ("<think>a</think>go", "a", "go"),
        ("a</think>go", "a", "go"),
        ("</think>go", None, "go"),
        ("\n<think>\n\n</think>\n\ngo", None, "\n\ngo"),
        ("<think>a</think><think>b</think>go", "a\nb", "go"),
        ("a</think>\n<think>b</think>go", "a\nb", "go"),
        ("<think>say </think> now</think>go", "say\nnow", "go"),
        ("<think><think>a</think>go", "a", "go"),
        ("<THINK>a</Think>go", "a", "go"),
        ("<think>a", "a", None),
        ("<think>a</think>go<think>", "a\ngo", None),
        ("a</think><think>b", "a\nb", None),
        ("So <think>a</think>go", None, "So <think>a</think>go"),
        ("[THINK]a[/THINK]go", "a", "go"),
        ("[think]", None, "[think]"),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>go<|return|>",
            "a",
            "go",
        ),
        ("<|channel|>final<|message|>go", None, "go"),
        ("<|channel|>analysis<|message|>a", "a", None),
    ],
)
def test_thought_and_answer(text: str, thought: str | None, answer: str | None) -> None:
    assert split(text) == (thought, answer)


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_every_pair_of_tags_is_known(opening: str, closing: str) -> None:
    assert split(f"{opening}a{closing}go") == ("a", "go")
    assert split(f"a{closing}go") == ("a", "go")
    opened = left_open(f"<|user|>what is {opening}b{closing}?<|assistant|>{opening}\n")
    assert opened == f"{opening}\n"
    assert split(opened + continued(opened, f"{opening}a{closing}go")) == ("a", "go")
    assert split(opened + continued(opened, "go")) == (None, "\n\ngo")


def test_a_prompt_without_an_open_tag_leaves_a_text_as_it_is() -> None:
    assert left_open("<|assistant|>") == left_open("<think></think>") == ""
    assert continued("", "<think>a</think>go") == "<think>a</think>go"


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
@pytest.mark.parametrize(
    "thought",
    [
        "I came from the south.",
        '<action>no</action>\n<tool_call> {"name": 1}',
        "a\n\n- b: c",
        "go\nthere",
    ],
)
def test_every_parser_reads_an_answer_after_reasoning(parser: Parser, thought: str) -> None:
    answer = parser.render("go north")
    for text in (
        f"<think>\n{thought}\n</think>\n\n{answer}",
        f"{thought}\n</think>\n\n{answer}",
        f"<think>{thought}</think>\n<think>Well.</think>{answer}",
        f"[THINK]{thought}[/THINK]{answer}",
    ):
        parsed = parser.parse(text)
        assert parsed.action == "go north"
        assert parsed.thought is not None
        assert parsed.thought.startswith(thought)


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_no_parser_reads_an_action_in_reasoning_that_never_ends(parser: Parser) -> None:
    answer = parser.render("go north")
    assert parser.parse(f"<think>I could {answer}").action is None
    assert parser.parse(f"<think>a</think><think>{answer}").action is None
    assert parser.parse("<think>hm</think>").action is None


@given(
    st.lists(
        st.sampled_from([*sum(PAIRS, ()), "go", "\n", "<|channel|>final<|message|>", "<"])
        | st.text()
    ).map("".join)
)
def test_no_text_upsets_it(text: str) -> None:
    thought, answer = split(text)
    assert answer is None or text.endswith(answer) or "<|channel|>" in text
    assert thought is None or (thought and thought == thought.strip())


@pytest.mark.parametrize(
    "text", ["<think>" * 50_000, "</think>" * 50_000, " " * 300_000, "<|channel|>" * 30_000]
)
def test_long_garbage_is_read_in_linear_time(text: str) -> None:
    split(text)
