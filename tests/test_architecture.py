"""The house: who may import whom, what `import turnrl` costs, and how big a file may grow."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Container, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("foundation", "containers", "envs", "agents", "rewards", "training", "cli")
"""From the cellar up. A room imports itself and what is below it."""
FILES = sorted(path for room in FLOORS for path in (ROOT / room).rglob("*.py"))
BESIDE = ("__init__.py", "__main__.py")


def imports(source: str, package: list[str]) -> Iterator[str]:
    """Absolute names of all that `source` imports, at any depth; `package` is where it lives."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module"
        ):
            yield from (
                a.value
                for a in node.args[:1]
                if isinstance(a, ast.Constant) and isinstance(a.value, str)
            )


def rooms(source: str, package: list[str]) -> set[str]:
    """The rooms that `source` imports from."""
    names = [name.split(".") for name in imports(source, package)]
    return {
        parts[1]
        for parts in names
        if parts[0] == "turnrl" and len(parts) > 1 and parts[1] in FLOORS
    }


def test_the_parser_sees_every_way_to_import() -> None:
    source = """
from ..training.batch import TokenBatch
from .. import rewards
import turnrl.agents.episode
if TYPE_CHECKING:
    from turnrl.envs import Task
def late():
    from ..containers import x
    import_module("turnrl.training.run")
"""
    assert rooms(source, ["turnrl", "envs"]) == {
        "training",
        "rewards",
        "agents",
        "envs",
        "containers",
    }
    assert rooms("from .core import TextEnv", ["turnrl", "envs"]) == {"envs"}
    assert rooms("from .core import TextEnv", ["turnrl", "envs", "textworld"]) == {"envs"}
    assert rooms("import gymnasium, numpy.typing", ["turnrl", "envs"]) == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_room_imports_upwards(path: Path) -> None:
    package = ["turnrl", *path.relative_to(ROOT).parts[:-1]]
    allowed = set(FLOORS[: FLOORS.index(package[1]) + 1])
    assert rooms(path.read_text("utf-8"), package) <= allowed


KNOWS_THE_RUN = ("recipe", "session", "run", "walk", "stages")
BELOW_STAGES = (
    "learner",
    "source",
    "credit",
    "losses",
    "regularizers",
    "modifiers",
    "selection",
    "auxiliary",
    "controllers",
    "diagnostics",
)


@pytest.mark.parametrize("folder", BELOW_STAGES)
def test_nobody_below_the_stages_sees_a_recipe_or_a_run(folder: str) -> None:
    above = {f"turnrl.training.{name}" for name in KNOWS_THE_RUN}
    for path in (ROOT / "training" / folder).rglob("*.py"):
        package = ["turnrl", *path.relative_to(ROOT).parts[:-1]]
        names = imports(path.read_text("utf-8"), package)
        assert not {".".join(name.split(".")[:3]) for name in names} & above, path


def module_of(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = ("turnrl", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def edges(modules: Mapping[str, str], packages: Container[str]) -> dict[str, set[str]]:
    """Map modules to what their source imports, at any depth, but not for a type checker only."""
    found: dict[str, set[str]] = {}
    for name, source in modules.items():
        package = name.split(".") if name in packages else name.split(".")[:-1]
        tree = Unchecked().visit(ast.parse(source))
        names = {*imports(ast.unparse(tree), package)}
        # 'turnrl.envs.task.Task' is a name in a module, 'turnrl.envs.task' a module in a package.
        targets = {dotted if dotted in modules else dotted.rpartition(".")[0] for dotted in names}
        found[name] = (targets & modules.keys()) - {name}
    return found


class Unchecked(ast.NodeTransformer):
    """Leaves out what stands under ``if TYPE_CHECKING``."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        checked = getattr(node.test, "id", getattr(node.test, "attr", "")) == "TYPE_CHECKING"
        return ast.Module(node.orelse, []) if checked else self.generic_visit(node)


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other around, if there are any."""
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_file_imports_itself_around_a_circle() -> None:
    files = [*FILES, *(ROOT / name for name in BESIDE)]
    sources = {module_of(path): path.read_text("utf-8") for path in files}
    packages = {module_of(path) for path in files if path.name == "__init__.py"}
    assert circle(edges(sources, packages)) == []


def floor_of(module: str, packages: Container[str]) -> str:
    """What stands for a module among the folders of its room: the folder, or itself in no folder.

    The base of a slot and what plug-ins share stand for themselves, below the plug-ins.
    """
    parts = module.split(".")
    folder, alone = ".".join(parts[:3]), parts[-1] == "base" or parts[-1].startswith("_")
    return folder if folder in packages and not alone else module


def test_folders_of_a_room_import_in_one_direction() -> None:
    sources = {module_of(path): path.read_text("utf-8") for path in FILES}
    packages = {module_of(path) for path in FILES if path.name == "__init__.py"}
    graph: dict[str, set[str]] = {}
    for module, targets in edges(sources, packages).items():
        floor = floor_of(module, packages)
        found = {floor_of(target, packages) for target in targets}
        graph.setdefault(floor, set()).update(found - {floor})
    assert circle(graph) == []


NAMED_TWICE = {"Outcome"}
"""The reward ``outcome`` and what a world answers: both words are the field's."""


def test_one_noun_is_one_class() -> None:
    names = [
        node.name
        for path in FILES
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert {name for name in names if names.count(name) > 1} == NAMED_TWICE


def test_a_circle_is_seen_through_functions_and_packages_but_not_through_types() -> None:
    a = "def late():\n    from .b import x"
    late = edges({"p.a": a, "p.b": "from . import a"}, {"p"})
    assert circle(late) == ["p.a", "p.b", "p.a"]
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import y"
    assert circle(edges({"p.a": a, "p.b": typed}, {"p"})) == []
    assert circle(edges({"p": "from .a import x", "p.a": "from . import z"}, {"p"})) == [
        "p",
        "p.a",
        "p",
    ]


def test_the_checkout_shadows_no_installed_package() -> None:
    """Python looks first where it is started, and processes that play keep that folder."""
    ours = {path.stem for path in ROOT.glob("*.py")} | {
        path.parent.name for path in ROOT.glob("*/__init__.py")
    }
    theirs = {
        name for name, owners in packages_distributions().items() if set(owners) != {"turnrl"}
    }
    assert not (ours - {"__init__", "__main__"}) & (theirs | sys.stdlib_module_names)


USED_BY_WORLDS = (
    "spacy",
    "textworld",
    "fast_downward",
    "tantivy",
    "bm25s",
    "scienceworld",
    "transformers",
)


def test_what_worlds_need_can_be_imported_from_the_checkout() -> None:
    there = [name for name in USED_BY_WORLDS if importlib.util.find_spec(name)]
    code = f"import sys; print(*(__import__(name).__file__ for name in {there}), sep='\\n')"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = [Path(line) for line in done.stdout.splitlines()]
    assert len(found) == len(there)
    assert all("site-packages" in file.parts for file in found)


def test_all_printing_to_terminals_is_by_the_console_that_obeys_no_text() -> None:
    users = [
        path.relative_to(ROOT)
        for path in FILES
        if "rich.console import Console" in path.read_text("utf-8")
    ]
    assert users == [Path("foundation/terminal.py")]


def fresh(code: str) -> list[str]:
    """Lines that a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_import_brings_neither_torch_nor_any_world() -> None:
    loaded = set(fresh("import sys, turnrl; print(*sys.modules, sep='\\n')"))
    heavy = {
        "torch",
        "transformers",
        "tokenizers",
        "textworld",
        "alfworld",
        "spacy",
        "matplotlib",
        "peft",
    }
    assert "turnrl.envs.registry" in loaded
    assert not loaded & heavy
    worlds = {f"turnrl.envs.{path.parent.name}" for path in (ROOT / "envs").glob("*/__init__.py")}
    assert worlds
    assert not loaded & worlds


def test_help_brings_no_torch() -> None:
    code = (
        "import sys; from turnrl.cli import main; code = main.run(['--help']); print(*sys.modules,"
        " sep='\\n'); "
    )
    code += "sys.exit(code)"
    assert "torch" not in fresh(code)


@pytest.mark.parametrize(
    "path",
    [*FILES, *(ROOT / name for name in BESIDE)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_files_and_functions_are_small(path: Path) -> None:
    source = path.read_text("utf-8")
    assert len(source.splitlines()) <= 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, node.name


def without_encoding(source: str) -> list[int]:
    """Lines that open a file or a pipe as text without saying in which encoding."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        keys = {keyword.arg: keyword.value for keyword in node.keywords}
        texts = [
            a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
        ]
        if name in ("read_text", "write_text"):
            wrong = len(node.args) < (1 if name == "read_text" else 2)
        elif name in ("open", "fdopen"):
            # A file object's mode is a short word of these letters; what has none is opened as
            # text.
            modes = [text for text in texts if text and set(text) <= set("rwaxbt+")]
            opens_file = bool(modes) or (name == "open" and isinstance(node.func, ast.Name))
            wrong = opens_file and not any("b" in mode for mode in modes)
        else:
            wrong = name in ("Popen", "run", "check_output") and bool(
                keys.keys() & {"text", "universal_newlines", "errors"}
            )
        if wrong and "encoding" not in keys:
            found.append(node.lineno)
    return found


def test_the_reader_of_encodings_sees_every_way_to_open() -> None:
    wrong = """
open("x")
path.open("w")
gzip.open(path, "wt")
path.read_text()
path.write_text(text)
subprocess.run(command, text=True)
os.fdopen(1, "w")
"""
    assert without_encoding(wrong) == list(range(2, 9))
    right = """
open("x", "rb")
path.open("w", encoding="utf-8")
path.read_text("utf-8")
path.write_text(text, "utf-8")
subprocess.run(command, encoding="utf-8")
engine.open("episode")
tarfile.open(archive)
"""
    assert without_encoding(right) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_read_or_written_in_the_encoding_of_the_machine(path: Path) -> None:
    assert not without_encoding(path.read_text("utf-8"))


def test_public_names_exist() -> None:
    names = fresh(
        "import turnrl; [getattr(turnrl, name) for name in turnrl.__all__]; print(*turnrl.__all__)"
    )[0].split()
    assert {"make", "register", "evaluate", "train", "Recipe", "Task", "Episode"} <= set(names)


@pytest.mark.parametrize("room", FLOORS)
def test_every_module_says_what_it_is(room: str) -> None:
    silent = [
        p.relative_to(ROOT)
        for p in (ROOT / room).rglob("*.py")
        if not ast.get_docstring(ast.parse(p.read_text("utf-8")))
    ]
    assert not silent


def calls(tree: ast.AST) -> Iterator[str]:
    """The names, dotted where they are, of all that is called outside of the mains of scripts."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and node.name.endswith("main"):
            continue
        if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)
        yield from calls(node)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_not_an_answer_is_logged(path: Path) -> None:
    """Programs print what they were asked for; all else goes through `logging`."""
    called = set(calls(ast.parse(path.read_text("utf-8"))))
    assert "warnings.warn" not in called
    assert path.is_relative_to(ROOT / "cli") or "print" not in called


ONE_PLACE = {
    "subprocess.Popen": "foundation/processes.py",
    "subprocess.run": "foundation/processes.py",
    "asyncio.gather": "foundation/aio.py",
    "os.replace": "foundation/files.py",
    "os.rename": "foundation/files.py",
}
"""What is done in one place only, for all who need it."""
ALONE = "envs/textworld/worker.py"
"""Runs without the package, so that a compiler of games starts quickly."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_children_writes_and_waits_have_one_helper_each(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    called = set(calls(ast.parse(path.read_text("utf-8"))))
    assert name == ALONE or {ONE_PLACE[call] for call in called & ONE_PLACE.keys()} <= {name}


SPOKEN = (*FLOORS, "benchmarks", "docs", "examples", "tests/outsider")
"""The folders in which the docstring of a function begins with a verb, followed by its object."""
VERBS = (
    """
    Act Add Answer Ask Bind Bring Build Call Change Check Choose Clip Close Collect Compare Compile
    Compute Copy Count Cut Decide Declare Decorate Describe Do Draw Empty Encode End Exchange Fail
    Feed Fetch Fill Find Flip Force Forget Fork Free Get Give Go Grow Hand Have Hide Ignore Import
    Interrupt Join Keep Kill Leave Lend Let List Load Look Lose Make Map Measure Merge Move Multiply
    Name Note Open Overwrite Pack Pair Parse Pay Play Prepare Print Put Raise Read Rebuild Reduce
    Refuse Register Remember Remove Render Replace Replay Reset Restore Retell Return Rewrite Round
    Run Sample Say Scramble Send Serve Set Show Skip Sleep Split Start Stop Store Strip Subtract
    Take Tell Test Train Translate Try Turn Undo Unpack Use Wait Warn Work Wrap Write Yield
    """
).split()
"""All verbs that a docstring begins with, by the alphabet. A new one is added here on purpose."""


def first_words(source: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the docstring's first word of every function that has a docstring.

    A word with 'of' behind it is a noun, whatever else it may be: both are yielded.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            said = (ast.get_docstring(node) or "").split()
            if said:
                yield node.name, " ".join(said[: 2 if said[1:2] == ["of"] else 1]).rstrip(".,:;")


def test_the_reader_of_docstrings_finds_functions_at_any_depth() -> None:
    source = """
class A:
    "A noun: classes are things."
    async def method(self):
        "Sends it."
    @property
    def size(self):
        "[E]: how many."
    def silent(self): ...
def outer():
    "Share of the whole."
    def inner():
        "Stop."
"""
    assert sorted(first_words(source)) == [
        ("inner", "Stop"),
        ("method", "Sends"),
        ("outer", "Share of"),
        ("size", "[E]"),
    ]


def test_docstrings_of_functions_begin_with_a_verb() -> None:
    found = [
        (path.relative_to(ROOT).as_posix(), name, word)
        for room in SPOKEN
        for path in (ROOT / room).rglob("*.py")
        for name, word in first_words(path.read_text("utf-8"))
    ]
    assert [place for place in found if place[2] not in VERBS] == []
    assert sorted({word for _, _, word in found}) == VERBS
