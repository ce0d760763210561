"""Configuration: typed blocks of a recipe, checked arguments, and errors as one sentence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from .errors import UserError, nearest

F = TypeVar("F", bound=Callable[..., Any])


def checked(function: F) -> F:
    """Decorate a public function, so that its arguments are checked by their annotations.

    An argument of another type is a UserError that names it.

    Numbers of numpy become Python's.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given, adapters = _signature(function).bind(*args, **kwargs), _adapters(function)
        for name in given.arguments.keys() & adapters:
            value = given.arguments[name]
            if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
                given.arguments[name] = value = value.item()
            # Looked at only: the function gets what it was given, and not a copy of pydantic's.
            try:
                adapters[name].validate_python(value, strict=True)
            except ValidationError as error:
                raise UserError(explain(error, f"{function.__name__}: {name}")) from None
        return function(*given.args, **given.kwargs)

    return call  # type: ignore[return-value]


@cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


@cache
def _adapters(function: Callable[..., Any]) -> dict[str, TypeAdapter[Any]]:
    """Make a validator for each annotated argument that has a name."""
    hints = get_type_hints(function, include_extras=True)
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    config = ConfigDict(arbitrary_types_allowed=True)
    return {
        name: TypeAdapter(hints[name], config=config)
        for name, parameter in _signature(function).parameters.items()
        if name in hints and parameter.kind not in several
    }


def keys_of(model: type[BaseModel], where: str = "") -> dict[str, list[str]]:
    """List the keys of a block and of the blocks inside it, by location.

    `explain` needs them for its hint.
    """
    known = {where: list(model.model_fields)}
    for name, item in model.model_fields.items():
        for inner in (item.annotation, *get_args(item.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel) and inner is not model:
                known |= keys_of(inner, f"{where}.{name}" if where else name)
    return known


def explain(error: ValidationError, what: str, known: Mapping[str, list[str]] | None = None) -> str:
    """Say the first problem of a pydantic error as one sentence.

    `known` gives valid keys by location for the hint.
    """
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        parent, _, key = where.rpartition(".")
        keys = (known or {}).get(parent, [])
        return f"{what}: unknown key '{where}'" + (f"; {nearest(key, keys)}" if keys else "")
    message = problem["msg"].removeprefix("Value error, ")
    return f"{what}: {where}: {message}" if where else f"{what}: {message}"
