"""Tool calls: read in the forms that models of many families write them, and in no other way."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnrl.agents.chat.calls import find_calls
from turnrl.agents.parsers.tool_call import ToolCall
from turnrl.envs.tools import tool

CALL = '{"name": "act", "arguments": {"action": "go north"}}'
ARGUMENTS = '{"action": "go north"}'
FORMS = {
    "hermes": "<tool_call>\n" + CALL + "\n</tool_call>",
    "string": (
        '<tool_call>{"name": "act", "arguments": "{\\"action\\": \\"go north\\"}"}</tool' + "_call>"
    ),
    "parameters": '{"name": "act", "parameters": ' + ARGUMENTS + "}",
    "wrapper": '{"type": "function", "function": ' + CALL + "}",
    "wrapper-str": (
        '{"id":"call_1","type": "function", "function": {"name": "act", "arguments": "{'
        + '\\"action\\": \\"go north\\"}"}}'
    ),
    "tool_calls": (
        '{"tool_calls": [{"id":"x","type": "function", "function": {"name": "act", "argu'
        + 'ments": "{\\"action\\": \\"go north\\"}"}}]}'
    ),
    "function str": '{"function": "act", "arguments": ' + ARGUMENTS + "}",
    "list": "[" + CALL + "]",
    "list in tag": "<tool_call>[" + CALL + "]</tool_call>",
    "qwen coder": (
        "<tool_call>\n<function=act>\n<parameter=action>\ngo north\n</parameter>\n</func"
        + "tion>\n</tool_call>"
    ),
    "qwen coder bare": "<function=act>\n<parameter=action>\ngo north\n</parameter>\n</function>",
    "llama python tag": '<|python_tag|>{"name": "act", "parameters": ' + ARGUMENTS + "}<|eom_id|>",
    "llama call": '<|python_tag|>act.call(action="go north")',
    "llama fn": "<function=act>" + ARGUMENTS + "</function>",
    "mistral": "[TOOL_CALLS][" + CALL + "]",
    "mistral id": (
        '[TOOL_CALLS] [{"name": "act", "arguments": ' + ARGUMENTS + ', "id": "abcdefghi"}]</s>'
    ),
    "mistral args": "[TOOL_CALLS]act[ARGS]" + ARGUMENTS,
    "mistral callid": "[TOOL_CALLS]act[CALL_ID]12345abcd[ARGS]" + ARGUMENTS,
    "mistral13": "[TOOL_CALLS]act" + ARGUMENTS,
    "glm45": (
        "<tool_call>act\n<arg_key>action</arg_key>\n<arg_value>go north</arg_value>\n</t"
        + "ool_call>"
    ),
    "glm47": "<tool_call>act<arg_key>action</arg_key><arg_value>go north</arg_value></tool_call>",
    "glm4": "act\n" + ARGUMENTS,
    "deepseek3": (
        "<\uff5ctool\u2581calls\u2581begin\uff5c><\uff5ctool\u2581call\u2581begin\uff5c>"
        + "function<\uff5ctool\u2581sep\uff5c>act\n```json\n"
        + ARGUMENTS
        + "\n```<\uff5ctool\u2581call\u2581end\uff5c><\uff5ctool\u2581calls\u2581end\uff5c>"
    ),
    "deepseek31": (
        "<\uff5ctool\u2581calls\u2581begin\uff5c><\uff5ctool\u2581call\u2581begin\uff5c>"
        + "act<\uff5ctool\u2581sep\uff5c>"
        + ARGUMENTS
        + "<\uff5ctool\u2581call\u2581end\uff5c><\uff5ctool\u2581calls\u2581end\uff5c>"
    ),
    "dsml": (
        '<\uff5cDSML\uff5cfunction_calls>\n<\uff5cDSML\uff5cinvoke name="act">\n<\uff5cD'
        + 'SML\uff5cparameter name="action" string="true">go north</\uff5cDSML\uff5cparame'
        + "ter>\n</\uff5cDSML\uff5cinvoke>\n</\uff5cDSML\uff5cfunction_calls>"
    ),
    "kimi": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.act:0<|tool_call_argum"
        + "ent_begin|>"
        + ARGUMENTS
        + "<|tool_call_end|><|tool_calls_section_end|>"
    ),
    "fence": "```json\n" + CALL + "\n```",
    "fence tool": "I go.\n```tool_call\n" + CALL + "\n```",
    "tool_code": '```tool_code\nprint(act(action="go north"))\n```',
    "pythonic": '[act(action="go north")]',
    "pythonic1": "act(action='go north')",
    "positional": 'act("go north")',
    "lfm2": '<|tool_call_start|>[act(action="go north")]<|tool_call_end|>',
    "trailing comma": (
        '<tool_call>{"name": "act", "arguments": {"action": "go north",},}</tool_call>'
    ),
    "text after": "<tool_call>" + CALL + "</tool_call> and then I will see.",
    "unclosed": "<tool_call>" + CALL,
    "missing brace": '<tool_call>{"name": "act", "arguments": ' + ARGUMENTS + "</tool_call>",
    "extra brace": "<tool_call>" + CALL + "}</tool_call>",
    "single": "<tool_call>{'name': 'act', 'arguments': {'action': 'go north'}}</tool_call>",
    "upper": "<TOOL_CALL>" + CALL + "</TOOL_CALL>",
    "mention": (
        "I should use <tool_call> tags with </tool_call>. <tool_call>" + CALL + "</tool_call>"
    ),
    "think mention": (
        '<think>use <tool_call>{"name": "act", "arguments": {"action": "x"}}</tool_call>'
        + "?</think><tool_call>"
        + CALL
        + "</tool_call>"
    ),
    "opened": "hm</think>\n\n<tool_call>" + CALL + "</tool_call>",
    "harmony": (
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary "
        + "to=functions.act <|constrain|>json<|message|>"
        + ARGUMENTS
        + "<|call|>"
    ),
    "cohere": (
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "act", "parameters": '
        + ARGUMENTS
        + "}\n]<|END_ACTION|>"
    ),
    "command r": (
        'Action: ```json\n[\n    {\n        "tool_name": "act",\n        "parameters": '
        + ARGUMENTS
        + "\n    }\n]```"
    ),
    "granite": "<|tool_call|>[" + CALL + "]",
    "phi4": "<|tool_call|>[" + CALL + "]<|/tool_call|>",
    "functools": "functools[" + CALL + "]",
    "nemotron": "<TOOLCALL>[" + CALL + "]</TOOLCALL>",
    "minimax": (
        '<minimax:tool_call>\n<invoke name="act">\n<parameter name="action">go north</pa'
        + "rameter>\n</invoke>\n</minimax:tool_call>"
    ),
    "seed": (
        "<seed:tool_call>\n<function=act>\n<parameter=action>go north</parameter>\n</fun"
        + "ction>\n</seed:tool_call>"
    ),
    "apertus": '<|tools_prefix|>[{"act": ' + ARGUMENTS + "}]<|tools_suffix|>",
    "gemma4": '<|tool_call>call:act{action:<|"|>go north<|"|>}<tool_call|>',
    "react": "Thought: hm\nAction: act\nAction Input: " + ARGUMENTS,
    "anthropic": '{"type": "tool_use", "name": "act", "input": ' + ARGUMENTS + "}",
    "other key": '<tool_call>{"name": "act", "arguments": {"command": "go north"}}</tool_call>',
    "flat": '<tool_call>{"name": "act", "action": "go north"}</tool_call>',
    "newline": '<tool_call>{"name": "act", "arguments": {"action": "go north\n"}}</tool_call>',
    "internlm": (
        '<|action_start|><|plugin|>{"name": "act", "parameters": ' + ARGUMENTS + "}<|action_end|>"
    ),
    "functionary": ">>>act\n" + ARGUMENTS,
    "prefixed": '{"name": "functions.act", "arguments": ' + ARGUMENTS + "}",
}
"""One call, as it is written by whom."""


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(form: str) -> None:
    assert ToolCall().parse(FORMS[form]).action == "go north"
    assert ToolCall(tool="other").parse(FORMS[form]).action is None
    spoken = ToolCall().parse(f"<think>North is new.</think>\n{FORMS[form]}")
    assert spoken.action == "go north"
    assert "North is new." in (spoken.thought or "")


@pytest.mark.parametrize("form", FORMS)
def test_markup_is_no_thought(form: str) -> None:
    said = {
        "fence tool": "I go.",
        "mention": "I should use <tool_call> tags with </tool_call>.",
        "opened": "hm",
        "harmony": "hm",
        "react": "Thought: hm",
    }
    if form != "think mention":
        assert ToolCall().parse(FORMS[form]).thought == said.get(form)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I act.",
        "act (north)",
        '<tool_call>{"name": "act", "arguments": {"action": "go',
        '<tool_call>{"name": "act", "arguments": {"action": ["go"]}}</tool_call>',
        '<tool_call>{"name": "act", "arguments": {"action": "go", "action": " "}}</tool_call>',
        '<tool_call>{"name": "act", "arguments": {"a": "go", "b": "stay"}}</tool_call>',
        '<tool_call>{"name": "act", "arguments": {"action": "a"}}</tool_call>'
        '<tool_call>{"name": "act", "arguments": {"action": "b"}}</tool_call>',
        '[{"name": "act", "arguments": {"action": "a"}}, {"name": "look", "arguments": {}}]',
        '<think>{"name": "act", "arguments": {"action": "go"}}',
    ],
)
def test_what_is_not_one_call_is_none(text: str) -> None:
    assert ToolCall().parse(text).action is None


def test_a_call_in_passing_does_not_spoil_the_call() -> None:
    call = ToolCall().render("go south")
    for passing in (
        'Maybe act("go north")?',
        'The format is {"name": "act", "arguments": {"action": "x"}}.',
        "[act] it {is}",
    ):
        assert ToolCall().parse(f"{passing}\n{call}").action == "go south"


def test_the_tool_is_shown_with_the_argument_that_is_read() -> None:
    world = [tool("search", "Look it up.", query="words"), tool("answer", "The end.", text="words")]
    [shown] = ToolCall(tool="search").shown(world)
    assert (shown["function"]["name"], shown["function"]["description"]) == (
        "search",
        "Look it up.",
    )
    assert list(shown["function"]["parameters"]["properties"]) == ["action"]
    assert (
        ToolCall(tool="search")
        .parse('{"name": "search", "arguments": {"action": "search[x]"}}')
        .action
        == "search[x]"
    )
    assert (
        ToolCall(tool="search").parse('{"name": "search", "arguments": {"query": "x"}}').action
        == "x"
    )
    assert ToolCall().shown(world) == []


PIECES = [
    "<tool_call>",
    "</tool_call>",
    '{"name": "act", "arguments": ',
    ARGUMENTS,
    "{",
    "}",
    "[",
    "]",
    "(",
    "act(",
    '"',
    "<function=act>",
    "<parameter=action>",
    "</parameter>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "call:act{",
    "'",
    "\\",
    "\n",
    "[TOOL_CALLS]",
    "```json",
    "act",
    " ",
    ",",
    ":",
    "9" * 5000,
    "\ud7ff",
    "\x00",
]


@given(
    st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=30).map("".join)
)
def test_no_text_upsets_it(text: str) -> None:
    for call in find_calls(text):
        assert 0 <= call.start <= len(text)
    parsed = ToolCall().parse(text)
    assert parsed.action is None or (parsed.action and parsed.action == parsed.action.strip())


@given(
    action=st.text(min_size=1).map(str.strip).filter(bool),
    thought=st.sampled_from([None, "hm", "so: {x} [y]"]),
)
def test_any_command_survives_in_json(action: str, thought: str | None) -> None:
    assert ToolCall().parse(ToolCall().render(action, thought)).action == action
    nested = json.dumps({"name": "act", "arguments": json.dumps({"action": action})})
    assert ToolCall().parse(f"<tool_call>{nested}</tool_call>").action == action


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{" * 100_000,
        '{"a":' * 50_000,
        "act(" * 50_000,
        "<function=a>" * 20_000,
        "call:a{" * 20_000,
        "a<arg_key>b</arg_key><arg_value>" * 5000,
        "act " * 50_000 + "{",
        "'" * 100_001,
        " " * 100_000 + "x{}" * 1000,
        '{"a":1}' * 20_000,
    ],
)
def test_long_garbage_is_read_in_linear_time(text: str) -> None:
    assert ToolCall().parse(text).action is None
