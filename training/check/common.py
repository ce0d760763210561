"""The promises of every plug-in, whatever its slot, and how rules compare what they get."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch

from ...foundation.checking import Rules
from ...foundation.plugins import Plugin, Slot

T = TypeVar("T")


def about(slot: Slot[Any]) -> Rules[Plugin]:
    """Make the rules about a plug-in as configuration."""
    rules: Rules[Plugin] = Rules()

    @rules.rule("says what it is")
    def documented(plugin: Plugin) -> None:
        assert (type(plugin).__doc__ or "").strip(), "the class has no docstring"

    @rules.rule("fields have help")
    def described(plugin: Plugin) -> None:
        fields = type(plugin).model_fields
        silent = [
            name for name, field in fields.items() if name != "name" and not field.description
        ]
        assert not silent, f"no description: {', '.join(silent)}"

    @rules.rule("is its configuration")
    def dumped(plugin: Plugin) -> None:
        data = plugin.model_dump(mode="json")
        again = type(plugin).model_validate(data).model_dump(mode="json")
        assert again == data, f"what it writes of itself is read as something else: {data} {again}"

    @rules.rule("memory is plain")
    def remembered(plugin: Plugin) -> None:
        from ..boundaries import memory_of

        plugin.load_state_dict(memory_of(plugin))

    return rules


def untouched(ask: Callable[[], T], *given: object) -> T:
    """Call `ask` and make sure that it wrote into nothing it was given."""
    before = copy.deepcopy(given)
    answer = ask()
    for thing, was in zip(given, before, strict=True):
        assert _same(thing, was), f"it wrote into the {type(thing).__name__} that it was given"
    return answer


def _same(a: Any, b: Any) -> bool:
    """Tell whether two values of data classes, containers and tensors are equal throughout."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a.nan_to_num(7e7), b.nan_to_num(7e7))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if is_dataclass(a) and not isinstance(a, type):
        return all(_same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return bool(a == b)


def equal(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-9) -> bool:
    """Tell whether two tensors of numbers are the same up to rounding."""
    return a.shape == b.shape and bool(torch.allclose(a, b, atol=tolerance, rtol=1e-6))
