"""Calls: tool calls in the forms that models write them, found anywhere in a text.

JSON objects (also in lists, in fences, under other keys, as Python literals, with arguments in a
string), a name before its arguments, calls in Python's syntax, XML in three fashions, and Gemma's
own. `find_calls` tells where each call starts, so that what was said before it is known:

    >>> find_calls('<tool_call>{"name": "act", "arguments": {"action": "go"}}</tool_call>')
    [Call(start=11, name='act', arguments={'action': 'go'}, loose=False)]
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

LONGEST = 100_000
"""Characters of a text that is looked at: a call is the last thing that is said, so the end is
kept.
"""
_TRIED = 64
"""Brackets that may begin JSON, at most."""
_NAMES = ("name", "tool_name", "function_name", "tool", "function", "action")
_ARGUMENTS = (
    "arguments",
    "parameters",
    "args",
    "kwargs",
    "input",
    "action_input",
    "tool_input",
    "params",
)
_AROUND = ("function", "function_call", "tool_call", "tool_calls", "calls", "actions")

_BRACKET = re.compile(r"[{\[]")
_NAME = r"(?<![\w.\-])(?:functions\.)?(?P<name>[A-Za-z_][\w\-]*)"
_MARKUP = r"<[|\uff5c][^<>{}]{1,40}[|\uff5c]>|\[ARGS\]|\[CALL_ID\]\w*"
_NAMED = re.compile(
    rf"{_NAME}(?::\d+)?(?:\s|{_MARKUP}|```\w*|(?<=>)json|Action Input:|Arguments:|code:)*\Z"
)
_TAG = re.compile(
    r"<(?:\uff5cDSML\uff5c|\w+:)?(?P<tag>function|invoke)(?:=|\s+name=)[\"']?(?P<name>[\w.\-]+)[\"']?[^<>]*>"
    r"(?P<body>.*?)(?:</(?:\uff5cDSML\uff5c|\w+:)?(?P=tag)>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_PARAMETER = re.compile(
    r"<(?:\uff5cDSML\uff5c|\w+:)?parameter(?:=|\s+name=)[\"']?(?P<key>[\w.\-]+)[\"']?[^<>]*>"
    r"(?P<value>.*?)(?:</(?:\uff5cDSML\uff5c|\w+:)?parameter>|(?=<(?:\uff5cDSML\uff5c|\w+:)?parameter)|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_KEYED = re.compile(
    rf"{_NAME}\s*(?P<body>(?:<arg_key>[^<]*</arg_key>\s*<arg_value>.*?(?:</arg_value>\s*|\Z))+)",
    re.DOTALL,
)
_PAIR = re.compile(
    r"<arg_key>(?P<key>[^<]*)</arg_key>\s*<arg_value>(?P<value>.*?)(?:</arg_value>|\Z)", re.DOTALL
)
_PYTHON = re.compile(rf"{_NAME}(?:\.call)?(?=\()")
_GEMMA = re.compile(
    r"call:(?P<name>[\w.\-]+)\{(?P<body>.*?)(?:\}(?=\s*(?:<|\Z|call:))|\Z)", re.DOTALL
)
_GEMMA_PAIR = re.compile(r"(?P<key>[\w\-]+):<\|\"\|>(?P<value>.*?)<\|\"\|>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool: its place in the text, its name, and its arguments by name.

    A positional argument is named ``""``.
    """

    start: int
    name: str
    arguments: dict[str, Any]
    loose: bool = False
    """It is in Python's syntax, as prose about calls is too."""


def find_calls(text: str) -> list[Call]:
    """Find all tool calls in a text, in their order. Never raises, for any text."""
    cut = max(0, len(text) - LONGEST)
    text = text[cut:]
    found: list[tuple[int, int, list[Call]]] = []
    for reader in (_json, _tags, _keyed, _gemma, _python):
        for start, end, calls in reader(text):
            if all(end <= a or start >= b for a, b, _ in found):
                found.append((start, end, calls))
    calls = [call for _, _, several in sorted(found, key=lambda one: one[0]) for call in several]
    return [replace(call, start=call.start + cut) for call in calls]


def _json(text: str) -> Iterator[tuple[int, int, list[Call]]]:
    position, tried = 0, 0
    while (match := _BRACKET.search(text, position)) and tried < _TRIED:
        start, tried = match.start(), tried + 1
        source, end = _balanced(text, start)
        value = _value(source)
        calls = [Call(start, name, arguments) for name, arguments in _shapes(value)]
        if (
            not calls
            and isinstance(value, dict)
            and (before := _NAMED.search(text[max(0, start - 120) : start]))
        ):
            start -= len(before.group())
            calls = [Call(start, before["name"], value)]
        if calls:
            yield start, end, calls
        position = end if calls or isinstance(value, dict) else match.end()


def _tags(text: str) -> Iterator[tuple[int, int, list[Call]]]:
    for match in _TAG.finditer(text):
        arguments: Any = {p["key"]: p["value"].strip() for p in _PARAMETER.finditer(match["body"])}
        if not arguments and "{" in match["body"]:
            arguments = _value(_balanced(match["body"], match["body"].index("{"))[0])
        if isinstance(arguments, dict):
            yield match.start(), match.end(), [Call(match.start(), match["name"], arguments)]


def _keyed(text: str) -> Iterator[tuple[int, int, list[Call]]]:
    for match in _KEYED.finditer(text):
        arguments = {
            pair["key"].strip(): pair["value"].strip() for pair in _PAIR.finditer(match["body"])
        }
        yield match.start(), match.end(), [Call(match.start(), match["name"], arguments)]


def _gemma(text: str) -> Iterator[tuple[int, int, list[Call]]]:
    for match in _GEMMA.finditer(text):
        arguments = {
            pair["key"]: pair["value"].strip() for pair in _GEMMA_PAIR.finditer(match["body"])
        }
        if arguments:
            yield match.start(), match.end(), [Call(match.start(), match["name"], arguments)]


def _python(text: str) -> Iterator[tuple[int, int, list[Call]]]:
    for tried, match in enumerate(_PYTHON.finditer(text)):
        if tried == _TRIED:
            return
        source, end = _balanced(text, match.end())
        tree = _tree(f"f{source}")
        if not isinstance(tree, ast.Call):
            continue
        given = [("", node) for node in tree.args] + [
            (word.arg or "", word.value) for word in tree.keywords
        ]
        values = {key: node.value for key, node in given if isinstance(node, ast.Constant)}
        if values and len(values) == len(given):
            yield match.start(), end, [Call(match.start(), match["name"], values, loose=True)]


def _shapes(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the calls in a value of JSON as (name, arguments)."""
    if isinstance(value, list):
        for one in value[:_TRIED]:
            if isinstance(one, dict):
                yield from _shapes(one)
        return
    if not isinstance(value, dict):
        return
    name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), None)
    key = next((key for key in _ARGUMENTS if key in value), None)
    inner = next((value[key] for key in _AROUND if isinstance(value.get(key), dict | list)), None)
    if inner is not None:
        yield from _shapes(inner)
    elif name is not None and key is not None:
        arguments = value[key]
        for _ in range(2):
            arguments = _value(arguments) if isinstance(arguments, str) else arguments
        yield name.removeprefix("functions."), arguments if isinstance(arguments, dict) else {}
    elif isinstance(value.get("name"), str):
        yield (
            value["name"].removeprefix("functions."),
            {k: v for k, v in value.items() if k not in ("name", "type", "id")},
        )
    elif len(value) == 1 and isinstance(only := next(iter(value.values())), dict):
        yield next(iter(value)), only


def _balanced(text: str, start: int) -> tuple[str, int]:
    """Return the bracketed text that starts here, closed if its end is missing, and its end."""
    open_, quote, position = [], "", start
    while position < len(text):
        character = text[position]
        if quote:
            if character == "\\":
                position += 1
            elif character == quote:
                quote = ""
        elif character in "\"'":
            quote = character
        elif character in "{[(":
            open_.append({"{": "}", "[": "]", "(": ")"}[character])
        elif character in "}])":
            if not open_ or open_.pop() != character:
                break
            if not open_:
                return text[start : position + 1], position + 1
        elif character == "<":  # markup: nothing of a call stands there unquoted
            break
        position += 1
        if len(open_) > _TRIED:
            break
    return text[start:position] + ("" if quote else "".join(reversed(open_))), position


def _value(source: str) -> Any:
    """Read JSON, or what models take for it: commas too many, single quotes. None for the rest."""
    for attempt in (source, re.sub(r",\s*([}\]])", r"\1", source)):
        try:
            return json.loads(attempt, strict=False)
        except (ValueError, RecursionError):
            continue
    tree = _tree(source)
    try:
        return ast.literal_eval(tree) if tree is not None else None
    except (ValueError, TypeError, MemoryError, RecursionError):
        return None


def _tree(source: str) -> ast.expr | None:
    if len(source) > 10_000:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
