"""Generated pages are what their scripts print, and say what every key of a recipe means."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from turnrl import Recipe
from turnrl.cli.catalogue import describe_fields, methods, settings_of
from turnrl.envs import env_ids
from turnrl.foundation.plugins import Plugin
from turnrl.training.stages.base import STAGES

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def generate() -> Any:
    """The script that writes the pages."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_methods_page_is_what_the_docstrings_say(generate: Any) -> None:
    assert (DOCS / "methods.md").read_text("utf-8") == generate.page(), (
        "run python docs/generate.py"
    )


def test_the_recipe_page_is_what_the_fields_say(generate: Any) -> None:
    assert (DOCS / "recipe.md").read_text("utf-8") == generate.recipe_page(), (
        "run python docs/generate.py"
    )


def test_the_page_of_worlds_is_what_their_settings_say(generate: Any) -> None:
    for needed in ("textworld", "scienceworld", "alfworld"):
        pytest.importorskip(needed)
    assert (DOCS / "environments" / "parameters.md").read_text("utf-8") == generate.worlds_page(), (
        "run python docs/generate.py"
    )


def blocks(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A model and every model inside its fields; plug-ins have a page of their own."""
    yield model
    for field in model.model_fields.values():
        waiting = [field.annotation]
        while waiting:
            inner = waiting.pop()
            waiting += get_args(inner)
            if (
                isinstance(inner, type)
                and issubclass(inner, BaseModel)
                and not issubclass(inner, Plugin)
            ):
                yield from blocks(inner)


def test_every_block_of_a_recipe_has_its_table(generate: Any) -> None:
    parts: list[type[BaseModel]] = [Recipe, STAGES.get("sft"), STAGES.get("rl")]
    wanted = {block for part in parts for block in blocks(part)}
    assert wanted == {model for model, _ in generate.BLOCKS.values()}


FRAGMENT = re.compile(r"(of|after|before|in|with|for|under|at|by|only|no|0|used|the same)\b")
"""How a help text begins that cannot be understood without the name of its field."""


def test_every_help_reads_alone(generate: Any) -> None:
    for model in blocks(Recipe):
        for name, field in model.model_fields.items():
            assert field.description or name == "name", f"{model.__name__}.{name} has no help"
            assert not FRAGMENT.match(field.description or ""), (
                f"{model.__name__}.{name}: {field.description}"
            )
    described = {method["name"]: method["fields"] for method in methods()}
    described |= {id: describe_fields(settings_of(id)) for id in env_ids() if generate.ships(id)}
    for name, fields in described.items():
        for field in fields:
            text = field["description"]
            assert text, f"{name}.{field['name']} has no help"
            assert not FRAGMENT.match(text), f"{name}.{field['name']}: {text}"
