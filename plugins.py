"""Plug-in slots: how a name in a recipe becomes an object.

A plug-in is one small file named after its key, in the folder of its slot, holding one subclass of
the slot's base class. The base class is a pydantic model, so the fields of the plug-in *are* its
configuration::

    class Grpo(Credit):                                  # training/credit/grpo.py
        name: Literal["grpo"] = "grpo"
        eps: float = Field(1e-6, description="added to the group's standard deviation")

        def __call__(self, rewards_KET, batch): ...

``{name: grpo, eps: 1e-4}`` in a recipe builds it. Third parties register a class under the
entry-point group ``turnrl.<slot>`` or name it by its path (``name: my_package.my_module:MyCredit``
or ``name: mine.py:MyCredit``).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import sysconfig
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, wraps
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError


class UserError(Exception):
    """A mistake of the user's, told in one sentence; the command line prints it without a
    traceback, exit code 2.
    """


class PluginError(UserError):
    """A plug-in raised, or answered what its slot cannot take: names it, and what would be right."""


class RunFailed(Exception):
    """What was asked for rightly could not be done, told in one sentence; the command line prints
    it, exit code 1.
    """


def told(error: BaseException) -> str:
    """Return an exception as one line: type, message, and the place in the code of whoever wrote
    what raised it.
    """
    try:
        message = " ".join(str(error).split())
    except Exception:  # a message that cannot be made must not hide what happened
        message = "(its message cannot be read)"
    if len(message) > 300:
        message = f"{message[:300]} ..."
    place = _place(error)
    return (
        f"{type(error).__name__}{': ' if message else ''}{message}{f' ({place})' if place else ''}"
    )


def kind_of(error: BaseException) -> str:
    """Return what equal failures have in common: the type of the exception and its place, without
    the message.
    """
    return f"{type(error).__name__} ({_place(error)})"


def _place(error: BaseException) -> str:
    """The innermost frame outside of libraries and of this package; inside of them if there is no
    other.
    """
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    theirs = [place for place in frames if not _is_library(place[0].f_code.co_filename)]
    others = [
        place
        for place in theirs
        if not str(place[0].f_globals.get("__name__")).startswith("turnrl.")
    ]
    if not frames:
        return ""
    frame, line = (others or theirs or frames)[-1]
    return f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"


@cache
def _is_library(file: str) -> bool:
    roots = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return file.startswith(("<", *roots))


@contextmanager
def boundary(what: str) -> Iterator[None]:
    """Turn what a plug-in raises into a PluginError that names it; a UserError passes as it is.

    Args:
        what: slot and name, such as "credit 'grpo'".
    """
    try:
        yield
    except (UserError, RunFailed, ValidationError):
        raise
    except Exception as error:
        raise PluginError(f"{what} raised {told(error)}") from error


class Plugin(BaseModel):
    """Base of every plug-in: its fields are its configuration.

    ``requires`` names what the trainer must compute for it (see the slot's base class for the names
    it knows).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    requires: ClassVar[frozenset[str]] = frozenset()
    name: str

    def needs(self) -> frozenset[str]:
        """What this instance requires: the class's ``requires``, and more where a field asks for
        it.
        """
        return self.requires

    def state_dict(self) -> dict[str, Any]:
        """Memory across steps, for the checkpoint; empty for most plug-ins."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


P = TypeVar("P", bound=Plugin)


F = TypeVar("F", bound=Callable[..., Any])


def checked(function: F) -> F:
    """Decorate a public function: an argument of another type than its annotation is a UserError
    that names it.

    Numbers of numpy become Python's.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given, adapters = _signature(function).bind(*args, **kwargs), _adapters(function)
        for name in given.arguments.keys() & adapters:
            value = given.arguments[name]
            if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
                given.arguments[name] = value = value.item()
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
    """A validator for each annotated argument that has a name."""
    hints = get_type_hints(function, include_extras=True)
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    config = ConfigDict(arbitrary_types_allowed=True)
    return {
        name: TypeAdapter(hints[name], config=config)
        for name, parameter in _signature(function).parameters.items()
        if name in hints and parameter.kind not in several
    }


def nearest(word: str, known: list[str]) -> str:
    """A hint for an unknown word: " (did you mean 'x'?)" or the list of what is known."""
    match = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{match[0]}'?" if match else f"known: {', '.join(sorted(known))}"


def keys_of(model: type[BaseModel], where: str = "") -> dict[str, list[str]]:
    """The keys of a block and of the blocks inside it, by location: what `explain` needs for its
    hint.
    """
    known = {where: list(model.model_fields)}
    for name, item in model.model_fields.items():
        for inner in (item.annotation, *get_args(item.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel) and inner is not model:
                known |= keys_of(inner, f"{where}.{name}" if where else name)
    return known


def explain(error: ValidationError, what: str, known: Mapping[str, list[str]] | None = None) -> str:
    """The first problem of a pydantic error as one sentence; `known` gives valid keys by location
    for the hint.
    """
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        parent, _, key = where.rpartition(".")
        keys = (known or {}).get(parent, [])
        return f"{what}: unknown key '{where}'" + (f"; {nearest(key, keys)}" if keys else "")
    message = problem["msg"].removeprefix("Value error, ")
    return f"{what}: {where}: {message}" if where else f"{what}: {message}"


def named_paths(data: Any) -> Iterator[str]:
    """Yield every class that nested plain data names by its path: the ``name: module:Class`` of
    plug-ins.
    """
    if isinstance(data, Mapping):
        if isinstance(name := data.get("name"), str) and ":" in name:
            yield name
        data = list(data.values())
    if isinstance(data, list | tuple):
        for item in data:
            yield from named_paths(item)


def refuse_paths(data: Any, what: str) -> None:
    """Raise UserError if data that somebody else may have written names a class by its path: its
    code would be run.
    """
    for path in named_paths(data):
        raise UserError(
            f"{what} names code to run, '{path}': use --trust (trust=True) if you trust whoever"
            " wrote it"
        )


def import_named(name: str) -> ModuleType:
    """Import a module by its dotted name, or a ``.py`` file by its path, once in a process.

    Raises:
        UserError: there is none, or running it raises; the sentence says where.
    """
    with _explained(name):
        return (
            _import_file(Path(name).expanduser().resolve())
            if name.endswith(".py")
            else importlib.import_module(name)
        )


def _import_file(path: Path) -> ModuleType:
    name = f"turnrl_file_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever importing a user's code raises into one sentence that says where."""
    try:
        yield
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(
            f"cannot import '{name}': {error.msg} ({error.filename}:{error.lineno})"
        ) from error
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            raise UserError(f"there is no module '{name}' on the Python path") from None
        own = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if not frame.filename.startswith("<")
        ]
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"cannot import '{name}': {problem} ({own[-1].filename}:{own[-1].lineno})"
        ) from error


def broken(package: str | None, what: str, error: BaseException) -> None:
    """Warn that something of an installed package cannot be used; everything else goes on without
    it.
    """
    problem = " ".join(f"{type(error).__name__}: {error}".split())
    warnings.warn(
        f"the package '{package or 'unknown'}' is broken and left out: {what}: {problem}",
        stacklevel=3,
    )


def package_of(entry: EntryPoint) -> str | None:
    """The name of the package that offers an entry point."""
    return entry.dist.name if entry.dist is not None else entry.value.partition(":")[0]


@cache
def _installed(group: str) -> dict[str, str]:
    """What other packages offer under an entry-point group: name -> 'module:Class'. A look takes 20
    ms.
    """
    return {
        entry.name: entry.value.partition("[")[0].replace(" ", "")
        for entry in entry_points(group=group)
    }


class Slot(Generic[P]):
    """The registry of one kind of plug-in.

    Args:
        package: the package that holds the built-in ones, one file per key
            (``turnrl.training.credit``).
        base: the class they derive from.
    """

    def __init__(self, package: str, base: type[P]) -> None:
        self.package, self.base = package, base
        self.name = package.removeprefix("turnrl.")

    def names(self) -> list[str]:
        """Keys of the built-in and the installed third-party plug-ins, sorted."""
        folder = importlib.import_module(self.package)
        keys = {
            m.name
            for m in pkgutil.iter_modules(folder.__path__)
            if m.name != "base" and not m.name.startswith("_")
        }
        return sorted(keys | set(_installed(self._group)))

    def get(self, name: str) -> type[P]:
        """The class behind a key or a path, ``module:Class`` or ``file.py:Class``. Raises UserError
        if none is.
        """
        if ":" in name:
            return self._load_path(name, name)
        if name in _installed(self._group):
            return self._load_path(_installed(self._group)[name], name)
        if name not in self.names():
            raise UserError(
                f"no {self.name} plug-in is called '{name}'; {nearest(name, self.names())}"
            )
        module = importlib.import_module(f"{self.package}.{name}")
        for thing in vars(module).values():
            if (
                isinstance(thing, type)
                and issubclass(thing, self.base)
                and thing.__module__ == module.__name__
            ):
                return thing
        raise TypeError(f"{module.__name__} holds no subclass of {self.base.__name__}")

    def build(self, config: Mapping[str, Any] | P) -> P:
        """An instance from ``{name: key, ...fields}``. Raises UserError for bad keys or values."""
        if isinstance(config, self.base):
            return config
        assert isinstance(config, Mapping)
        if not isinstance(config.get("name"), str):
            raise UserError(
                f"{self.name}: every entry needs a 'name', e.g. {{name: {self.names()[0]}}}"
            )
        cls = self.get(config["name"])
        fields = dict(config) | (
            {"name": cls.model_fields["name"].default} if ":" in config["name"] else {}
        )
        try:
            with boundary(f"{self.name} '{config['name']}', when it was made,"):
                return cls.model_validate(fields)
        except ValidationError as error:
            raise UserError(
                explain(error, f"{self.name} '{config['name']}'", keys_of(cls))
            ) from None

    @property
    def _group(self) -> str:
        return f"turnrl.{self.name}"

    def _load_path(self, path: str, name: str) -> type[P]:
        module, _, attribute = path.rpartition(":")
        try:
            found = import_named(module)
        except UserError as error:
            raise UserError(f"{self.name}: cannot load '{name}': {error}") from error.__cause__
        if not attribute or not hasattr(found, attribute):
            raise UserError(f"{self.name}: cannot load '{name}': {module} has no '{attribute}'")
        return self._check(getattr(found, attribute), name)

    def _check(self, thing: Any, name: str) -> type[P]:
        if not (isinstance(thing, type) and issubclass(thing, self.base)):
            raise UserError(f"{self.name}: '{name}' is not a subclass of {self.base.__name__}")
        return thing
