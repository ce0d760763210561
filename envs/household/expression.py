"""Expressions of a grammar, such as ``r.name or r.id``, worked out without `eval`::

    read("r.name or r.id")({"r": shelf})       # 'shelf 2'

A game's file may come from anybody. What it may write is: the fields of a `CompiledEntity`, texts
in quotes, ``+``, ``and``, ``or``, ``not``, and ``a if b else c``.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

from .compiled_format import CompiledEntity

LONGEST = 1000
"""Characters of an expression."""
_FIELDS = frozenset(field.name for field in fields(CompiledEntity))
Value = Callable[[Mapping[str, Any]], Any]
"""From the entities by name to what an expression says of them."""


@lru_cache(maxsize=1024)
def read(expression: str) -> Value:
    """Return the function that works an expression out.

    Raises ValueError for one that says more than it may.
    """
    try:
        if len(expression) > LONGEST:
            raise ValueError
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(
            f"the grammar's expression {expression[:80]!r} is none: use"
            f" {', '.join(sorted(_FIELDS))} of a thing, texts in quotes, +, and, or, not, if and"
            " else"
        ) from None


def _value(node: ast.expr) -> Value:
    match node:
        case ast.Constant(value=str() as text):
            return lambda things: text
        case ast.Name(id=name):
            return lambda things: things[name]
        case ast.Attribute(value=ast.Name(id=name), attr=field) if field in _FIELDS:
            return lambda things: getattr(things[name], field)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            first, second = _value(left), _value(right)
            return lambda things: first(things) + second(things)
        case ast.BoolOp(op=ast.Or(), values=values):
            return _first([_value(value) for value in values], wanted=True)
        case ast.BoolOp(op=ast.And(), values=values):
            return _first([_value(value) for value in values], wanted=False)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _value(operand)
            return lambda things: not inner(things)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            asked, yes, no = _value(test), _value(body), _value(orelse)
            return lambda things: yes(things) if asked(things) else no(things)
    raise ValueError


def _first(values: list[Value], *, wanted: bool) -> Value:
    """Return a function that chooses the first value that is true, or false, as Python does.

    `wanted` says which of them; where there is none it chooses the last value.
    """

    def choose(things: Mapping[str, Any]) -> Any:
        for value in values:
            found = value(things)
            if bool(found) is wanted:
                break
        return found

    return choose
