"""The command line's application, the options that its commands share, and how they answer."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from ..foundation.errors import UserError
from ..foundation.files import finite
from ..foundation.printable import escaped

app = typer.Typer(
    name="turnrl",
    help=(
        "Train and evaluate LLM agents over many turns.\n\nStart with: turnrl play"
        " textworld/coin-v0"
    ),
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Ended(Exception):
    """The end of a command by a KeyboardInterrupt or an EOFError, which typer would swallow."""


class Command(typer.core.TyperCommand):
    """A command whose options have one value: click takes the last of several in silence."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and raise Ended where an interrupt or the end of input stops it."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, EOFError) as error:
            raise Ended from error

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments of a command. Raises UserError for an option that is given twice."""
        given = [
            word.partition("=")[0] for word in itertools.takewhile(lambda word: word != "--", args)
        ]
        for option in self.params:
            single = not (getattr(option, "multiple", False) or getattr(option, "is_flag", False))
            if (
                single
                and sum(given.count(name) for name in option.opts if name.startswith("-")) > 1
            ):
                raise UserError(f"{option.opts[0]} is given twice")
        return super().parse_args(ctx, args)


Params = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Parameters of the environment, e.g. level=5."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON on standard output.")]
Split = Annotated[str, typer.Option(help="train, valid or test.")]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Run code that a run or checkpoint names: its worlds, and plug-ins by their path.",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help=(
            "Sampling temperature of a language model; 0 is greedy (default: the run's own, or 1)."
        ),
    ),
]
MaxTurns = Annotated[
    int | None, typer.Option(min=1, help="Turn limit (default: the checkpoint's own, or 50).")
]
Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import", metavar="MODULE", help="Module or .py file that registers your environments."
    ),
]
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML recipe.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Changes to it, e.g. rl.steps=20 seed=1."),
]


def parse_params(pairs: Sequence[str] | None) -> dict[str, Any]:
    """Read ``["level=5"]`` as ``{"level": 5}``, values as YAML. Raises UserError."""
    import yaml

    params: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", key):
            raise UserError(f"'{pair}' is not a parameter: write key=value, e.g. level=5")
        if key in params:
            raise UserError(f"the parameter '{key}' is given twice")
        try:
            params[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"the value of '{pair}' is not valid YAML") from None
    return params


def parse_value(key: str, text: str) -> dict[str, Any]:
    """Read a plug-in as an option names it, ``tags`` or ``{name: tags, field: 1}``.

    Raises UserError.
    """
    value = parse_params([f"{key}={text}"])[key]
    return value if isinstance(value, dict) else {"name": str(value)}


def creatable(path: Path) -> None:
    """Raise UserError unless a file can be written at `path`, before its content is computed."""
    try:
        if os.path.isdir(path):
            raise UserError(f"cannot write '{path}': it is a folder")
        if not os.path.isdir(path.absolute().parent):
            raise UserError(
                f"cannot write '{path}': the folder {path.absolute().parent} does not exist"
            )
        # To append nothing asks for the right to write, and changes nothing.
        if os.path.exists(path):
            path.open("ab").close()
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.touch()
        beside.unlink()
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot write '{path}': {getattr(error, 'strerror', None) or error}"
        ) from None


def answer(data: Any) -> None:
    """Print data, and nothing else, on standard output."""
    plain = sys.stdout.encoding.lower().replace("-", "") != "utf8"
    print(escaped(json.dumps(finite(data), indent=2, ensure_ascii=plain, allow_nan=False)))


def aside() -> contextlib.redirect_stdout[Any]:
    """Send whatever is printed meanwhile (progress bars too) to standard error."""
    return contextlib.redirect_stdout(sys.stderr)


def import_modules(modules: Sequence[str] | None) -> None:
    """Import the modules or files that register worlds."""
    if modules:
        from ..envs.registry import import_worlds

        import_worlds(*modules)


def fields(values: dict[str, Any]) -> str:
    """Write ``key=value`` pairs on one line, values as JSON."""
    return " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())


def field_line(field: dict[str, Any]) -> str:
    """Write one field of a method or a world: its name, type, bounds, default and help."""
    kind = ", ".join([field["type"], *field["limits"]])
    return f"{field['name']}: {kind} = {json.dumps(field['default'])}   {field['description']}"
