"""Plug-in slots: how a name in a recipe becomes an object.

A plug-in is one small file named after its key, in the folder of its slot, holding one subclass of
the slot's base class. The base class is a pydantic model, so the fields of the plug-in *are* its
configuration::

    class Grpo(Credit):                                  # training/credit/grpo.py
        name: Literal["grpo"] = "grpo"
        eps: float = Field(1e-6, description="added to the group's standard deviation")

        def __call__(self, rewards, batch): ...

``{name: grpo, eps: 1e-4}`` in a recipe builds it. Third parties register a class under the
entry-point group ``turnrl.<slot>`` or name it by its path (``name: my_package.my_module:MyCredit``
or ``name: mine.py:MyCredit``).

A block that holds one declares ``credit: Plugged[Credit]``. The field takes a plug-in or its data,
is a `Credit` to a type checker, and is written with every field, so that what was saved means the
same when a default has changed.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import pkgutil
from collections.abc import Collection, Mapping
from enum import StrEnum
from functools import cache, cached_property
from importlib.metadata import entry_points
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, SerializationInfo, ValidationError
from pydantic_core import CoreSchema, core_schema

from .config import explain, keys_of
from .errors import UserError, boundary, nearest
from .importing import FILE_MODULE, import_named


class Need(StrEnum):
    """The needs of plug-ins; each has one provider, and is computed only if somebody asks."""

    VALUES = "values"
    """A value of each turn, by a critic that the stage trains beside the policy."""
    OLD_LOGPROBS = "old_logprobs"
    """The trainer's own log-probabilities of sampled tokens, before a step's first update."""
    REF_LOGPROBS = "ref_logprobs"
    """Log-probabilities of the sampled tokens under the reference of the stage: the policy as it
    was at its start, unless its `reference` block says otherwise.
    """
    INITIAL_WEIGHTS = "initial_weights"
    """A copy of the weights that are trained as they were when the stage began."""
    SCORER = "scorer"
    """The agent that played, to score given tokens; the engine keeps the episodes' caches until the
    rewards are known.
    """
    EXPERT = "expert"
    """The plan of the world's expert as it stood at the start, in every episode."""
    PROGRESS = "progress"
    """How near the goal is after each turn, told by the world."""
    ADMISSIBLE_ACTIONS = "admissible_actions"
    """The commands that would be accepted at each turn, told by the world."""


TOLD_BY_WORLDS = frozenset({Need.PROGRESS, Need.ADMISSIBLE_ACTIONS})


class Plugin(BaseModel):
    """Base of every plug-in: its fields are its configuration.

    ``requires`` names what must be computed for it; a word that is no `Need` is refused when the
    class is made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    requires: ClassVar[frozenset[Need]] = frozenset()
    name: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a ``requires`` with a word that is no need."""
        super().__pydantic_init_subclass__(**kwargs)
        words: Any = cls.requires
        if isinstance(words, str) or not all(isinstance(word, str) for word in words):
            raise UserError(
                f"plug-in {cls.__name__}: 'requires' is a set of needs, e.g. {{Need.VALUES}}"
            )
        for word in sorted(set(words) - set(Need)):
            raise UserError(
                f"plug-in {cls.__name__} requires '{word}', which nobody provides;"
                f" {nearest(word, list(Need))}"
            )
        cls.requires = frozenset(map(Need, words))

    def needs(self) -> frozenset[Need]:
        """List what this instance needs: the class's ``requires``, and more where a field asks."""
        return self.requires

    @cached_property
    def recipe_key(self) -> str:
        """Return the name that a recipe has for the plug-in.

        It is the one that it was built by, else its key or its path.
        """
        cls = type(self)
        if cls.__module__.startswith("turnrl."):
            return self.name
        loaded_file = cls.__module__.startswith(FILE_MODULE)
        module = inspect.getfile(cls) if loaded_file else cls.__module__
        return f"{module}:{cls.__qualname__}"

    def begin(self) -> Self:
        """Return a copy of the plug-in that may remember.

        A part of a run begins with copies of what its recipe holds.

        A part of a run begins with copies of what its recipe holds.
        """
        return copy.deepcopy(self)

    def state_dict(self) -> dict[str, Any]:
        """Return memory across steps, for the checkpoint; empty for most plug-ins."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the memory that `state_dict` returned."""


P = TypeVar("P", bound=Plugin)
SLOTS: dict[type[Plugin], Slot[Any]] = {}
"""Every slot whose base class was imported."""


@cache
def _installed(group: str) -> dict[str, str]:
    """List what other packages offer under an entry-point group: name -> 'module:Class'.

    A look takes 20 ms.
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
        title: what they are, as the heading of a list of them.
        helpers: modules of the package that hold no plug-in, besides ``base`` and those whose names
            begin with an underscore.
    """

    def __init__(
        self, package: str, base: type[P], title: str, helpers: Collection[str] = ()
    ) -> None:
        self.package, self.base, self.title = package, base, title
        self.helpers = frozenset({"base", *helpers})
        self.name = package.removeprefix("turnrl.")
        SLOTS[base] = self

    def names(self) -> list[str]:
        """List the keys of the built-in and the installed third-party plug-ins, sorted."""
        folder = importlib.import_module(self.package)
        keys = {
            m.name
            for m in pkgutil.iter_modules(folder.__path__)
            if m.name not in self.helpers and not m.name.startswith("_")
        }
        return sorted(keys | set(_installed(self._group)))

    def get(self, name: str) -> type[P]:
        """Find the class behind a key or a path, ``module:Class`` or ``file.py:Class``.

        Raises UserError if none is.
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
            # Made in this file: one that it imports is another key's.
            if (
                isinstance(thing, type)
                and issubclass(thing, self.base)
                and thing.__module__ == module.__name__
            ):
                return thing
        raise TypeError(f"{module.__name__} holds no subclass of {self.base.__name__}")

    def build(self, config: Mapping[str, Any] | P) -> P:
        """Build an instance of ``{name: key, ...fields}``.

        Raises UserError for bad keys or values.
        """
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
                built = cls.model_validate(fields)
        except ValidationError as error:
            raise UserError(
                explain(error, f"{self.name} '{config['name']}'", keys_of(cls))
            ) from None
        # As a cached property: it is no field, and decides nothing about equality.
        vars(built)["recipe_key"] = config["name"]
        return built

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


class _Built:
    """Has pydantic read a field through the slot of its type, and write it with all its fields."""

    def __get_pydantic_core_schema__(
        self, kind: type[Plugin], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def read(value: Any) -> Plugin:
            slot = next(SLOTS[base] for base in kind.__mro__ if base in SLOTS)
            if not isinstance(value, Mapping | slot.base):
                raise ValueError(
                    f"needs a name, with fields beside it, e.g. {{name: {slot.names()[0]}}}"
                )
            built: Plugin = slot.build(value)
            if not isinstance(built, kind):
                raise ValueError(f"'{built.name}' is not a {kind.__name__}")
            return built

        return core_schema.no_info_plain_validator_function(
            read,
            serialization=core_schema.plain_serializer_function_ser_schema(_written, info_arg=True),
        )


def _written(plugin: Plugin, info: SerializationInfo) -> dict[str, Any]:
    fields = plugin.model_dump(mode=info.mode, exclude={"name"}, exclude_unset=info.exclude_unset)
    return {"name": plugin.recipe_key, **fields}


def distinct(plugins: list[P]) -> list[P]:
    """Check that no two plug-ins have one name, and return them. Raises ValueError otherwise."""
    names = [plugin.name for plugin in plugins]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"'{name}' is listed twice")
    return plugins


Plugged = Annotated[P, _Built()]
"""The type of a field that holds a plug-in: ``credit: Plugged[Credit]``."""
