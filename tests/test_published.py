"""What the pages and the docstrings show runs, or compiles at least, as it stands there."""

from __future__ import annotations

import ast
import doctest
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import pytest
import turnrl
import yaml
from pydantic import Field
from turnrl.agents.models import tiny
from turnrl.training.credit.base import Credit

from .agents.fake_engine import tokenizer
from .published import PAGES, ROOT, blocks, compiled, examples, run

ROOMS = ("agents", "cli", "containers", "envs", "foundation", "rewards", "training")
COMPILED = {
    "CONTRIBUTING.md": "has tests of its own",
    "docs/environments/household.md": "makes games for minutes, with compilers",
    "docs/environments/scienceworld.md": "starts Java",
    "docs/environments/textworld.md": "makes sixty games",
}
"""Pages whose blocks are not run, and why."""
KNOWN = {
    "turnrl": turnrl,
    "Literal": Literal,
    "ClassVar": ClassVar,
    "Field": Field,
    "Credit": Credit,
}
"""What an example may name without importing it, beside what its module has."""


def place(file: Path) -> str:
    return str(file.relative_to(ROOT))


def module_of(file: Path) -> ModuleType:
    name = ".".join(["turnrl", *file.relative_to(ROOT).with_suffix("").parts])
    return importlib.import_module(name.removesuffix(".__init__"))


def shown(file: Path) -> list[str]:
    return examples(ast.get_docstring(ast.parse(file.read_text("utf-8")), clean=False) or "")


FILES = [ROOT / "__init__.py", *(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if place(page) not in COMPILED and blocks(page, "python")],
    ids=place,
)
def test_the_blocks_of_a_page_run_one_after_the_other(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = tokenizer()
    said = words.encode("go north", add_special_tokens=False)
    namespace: dict[str, Any] = {
        "tokenizer": words,
        "model": tiny.build(words, layers=1, width=16, heads=2, max_context=256),
        "prompt_ids": said,
        "answer_ids": said,
        "sampled_ids": said,
    }
    for number, block in enumerate(blocks(page, "python")):
        run(block, f"{place(page)} block {number}", namespace)


@pytest.mark.parametrize("page", COMPILED)
def test_the_blocks_of_every_other_page_compile(page: str) -> None:
    found = blocks(ROOT / page, "python")
    assert found, "a page without blocks needs no exception"
    for number, block in enumerate(found):
        compiled(block, f"{page} block {number}")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=place)
def test_the_recipes_of_a_page_are_recipes_or_parts_of_one(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    # The pages name a class of the reader's own.
    (tmp_path / "mine.py").write_text(
        "from turnrl.agents.engines.torch import TorchEngineConfig as MyEngine"
    )
    whole = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text("utf-8"))
    for block in blocks(page, "yaml"):
        turnrl.Recipe.parse(whole | yaml.safe_load(block))


@pytest.mark.parametrize("file", [file for file in FILES if shown(file)], ids=place)
def test_what_a_module_shows_compiles_and_its_classes_can_be_made(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turnrl, "register", lambda *world: None)
    module = module_of(file)
    for block in shown(file):
        compiled(block, place(file))
        if block.startswith("class "):
            run(block, place(file), {**KNOWN, **vars(module)})


@pytest.mark.parametrize("file", [file for file in FILES if ">>> " in file.read_text()], ids=place)
def test_what_a_docstring_promises_is_answered(file: Path) -> None:
    found = doctest.testmod(module_of(file))
    assert found.attempted > 0
    assert found.failed == 0
