"""The front door: ``turnrl init | envs | check | play | eval | train | probe | methods | report``.

Answers go to standard output (pure JSON with --json), progress and warnings to standard error. A
user's mistake is one sentence and exit code 2; a check that fails, and a run or a measurement that
could not be done, is exit code 1. Every command imports what it needs when it runs.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from ..foundation.errors import RunFailed, UserError
from ..foundation.logs import shown_on_stderr
from ..foundation.printable import one_line
from . import measure, runs, worlds
from .app import Command, Ended, app

# Newer releases of typer carry their own copy of click, so the base of all usage errors is found
# through typer.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
_ORDER: tuple[Callable[..., None], ...] = (
    *(runs.init, worlds.envs, worlds.check, worlds.play, measure.evaluate),
    *(runs.train, runs.probe, runs.methods, runs.report),
)
for _command in _ORDER:
    app.command(name="eval" if _command is measure.evaluate else None, cls=Command)(_command)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return 0, 1 for a failed check or run, 2 for a user's mistake."""
    try:
        with shown_on_stderr(), warnings.catch_warnings():
            warnings.showwarning = _warn
            code = app(args=list(arguments), prog_name="turnrl", standalone_mode=False)
        sys.stdout.flush()
    except (UserError, _UsageError) as error:
        sentence = getattr(error, "format_message", error.__str__)()
        if sentence:
            _say(sentence)
        return 2
    except RunFailed as failure:
        _say(str(failure))
        return 1
    except Ended as end:
        return _interrupted(end.__cause__, arguments)
    except (KeyboardInterrupt, typer.Abort) as end:
        return _interrupted(end, arguments)
    except BrokenPipeError:
        # The reader has left (| head): the interpreter must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # A file or folder that the user named, or a disk that is full: there is nothing to see in a
        # traceback.
        if error.filename is None:
            raise
        print(
            f"turnrl: cannot use '{str(error.filename)[:300]}': {error.strerror}", file=sys.stderr
        )
        return 2
    return code if isinstance(code, int) else 0


def _say(sentence: str) -> None:
    """Print one line on standard error, whatever was quoted in it."""
    print(f"turnrl: {one_line(sentence)}", file=sys.stderr)


def _warn(message: Warning | str, category: type[Warning], *place: object, **more: object) -> None:
    """Say what a library warns of, in one line as what this package logs."""
    _say(f"warning: {message}")


def _interrupted(cause: BaseException | None, arguments: Sequence[str]) -> int:
    """Say that a command was stopped and how its run goes on; return the exit code."""
    if isinstance(cause, EOFError):  # a file that ended is no signal
        raise cause
    from ..training.interrupt import first_signal

    first = first_signal(cause)
    if first is None:
        _say("interrupted")
        return 130
    again = [*arguments, *([] if "--resume" in arguments else ["--resume"])]
    _say(f"{first}; go on with: {shlex.join(['turnrl', *again])}")
    return 128 + first.signum


def main() -> None:
    """Run the console script."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that lacks a character of a world's words must not end the command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if show_version:
        from .. import __version__

        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
