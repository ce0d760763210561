"""The code that pages and docstrings show, cut out and compiled as a reader would run it."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import textwrap
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
_PYTHON = re.compile(r"(@|class |def |async |from |import |with |[\w., ]+ = |[\w.]+[(\[])")
"""How an indented block begins that is Python, and not a command or a drawing."""


def blocks(page: Path, language: str) -> list[str]:
    """List the fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.M)


def examples(docstring: str) -> list[str]:
    """List the indented blocks of a module's docstring that are Python, without prompts."""
    indented = re.findall(r"\n\n((?: +\S.*\n?|\n)+)", docstring)
    found = [textwrap.dedent(block).strip("\n") for block in indented]
    return [block for block in found if _PYTHON.match(block)]


def compiled(block: str, name: str) -> CodeType:
    """Compile a block on its own terms: no __future__ of ours, and `await` outside of functions."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code: CodeType = compile(block, name, "exec", flags=flags, dont_inherit=True)
    return code


def run(block: str, name: str, namespace: dict[str, Any]) -> None:
    """Run a block in a namespace."""
    code = compiled(block, name)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, namespace))
    else:
        exec(code, namespace)
