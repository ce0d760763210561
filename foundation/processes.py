"""Start other programs, so that none of them outlives its purpose::

    ended = run([sys.executable, "-m", "pip", "download", "x"], limit=600)
    if ended.code:
        raise UserError(f"pip failed: {ended.words}")

    child = Child(python("from mine import main; main()"), stdin=PIPE, stdout=PIPE)
    ...
    child.end()

A `Child` leads a process group of its own: Ctrl-C is this process's to handle, and the child ends
together with all that it started, when it is told to, when it is forgotten, or when this process
ends, however that happens. What it writes to stderr goes to a file without a name, so that no pipe
fills up while nobody reads, and the end of it is told in errors.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import IO, Any

_PATIENCE = 5.0
"""Seconds after which a process that was killed, but cannot end yet, is left to the system."""
_WORDS = 2000
"""Bytes at the end of what a child wrote to stderr that may say why it ended."""


@dataclass(frozen=True, slots=True)
class ChildEnded:
    """The end of a program: its exit code, what it wrote to stdout, and its last words."""

    code: int
    """Negative for the signal that ended it."""
    output: bytes
    words: str


class Child:
    """A program that runs beside this process and ends with it.

    Args:
        command: the program and its arguments.
        stdin: as of `subprocess.Popen`.
        stdout: as of `subprocess.Popen`; None is where stderr goes.
        stderr: None is the file that `last_words` reads.
        environment: all variables of the child; None is those of this process.
        folder: the folder that it is started in.
        pass_fds: file descriptors that it inherits.
        watched: end it when this process ends, and let a small process do so if this one is killed.
            False for a program that ends by itself then, because its input does, say.

    Raises OSError where the program cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: int = DEVNULL,
        stdout: int | None = DEVNULL,
        stderr: int | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path | str | None = None,
        pass_fds: Sequence[int] = (),
        watched: bool = True,
    ) -> None:
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the child
        self.process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=self._said if stdout is None else stdout,
            stderr=self._said if stderr is None else stderr,
            env=environment,
            cwd=folder,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        watcher = _watcher_of(self.process.pid) if watched else None
        self._end = weakref.finalize(self, _end, self.process, watcher, os.getpid())
        self._end.atexit = watched

    def finish(self, given: bytes = b"", limit: float | None = None) -> ChildEnded:
        """Write `given` to the program's stdin, read its stdout, and wait until it has ended.

        Raises TimeoutError after `limit` seconds; it does not run on then.
        """
        try:
            output, _ = self.process.communicate(given, limit)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"it did not end within {limit:g} s") from None
        finally:
            self.end()
        return ChildEnded(self.process.returncode, output, self.last_words())

    def end(self, patience: float = 0.0) -> None:
        """Wait `patience` seconds at most, then kill the program and what is left of its group.

        May be called twice. A copy of this process, made by a fork, ends nothing.
        """
        if self._end.alive and patience:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        self._end()

    def last_words(self) -> str:
        """Return the end of what the program wrote to stderr; its exit code if it wrote nothing."""
        size = os.fstat(self._said.fileno()).st_size
        # At a place of its own: where the child writes on is in the same open file.
        tail = os.pread(self._said.fileno(), _WORDS, max(0, size - _WORDS))
        text = tail.decode("utf-8", errors="replace").strip()
        return text or f"exit code {self.process.poll()}, nothing on stderr"

    def last_line(self) -> str:
        """Return the last line of the program's `last_words`."""
        return self.last_words().splitlines()[-1]


def run(
    command: Sequence[str],
    *,
    given: bytes = b"",
    limit: float | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | str | None = None,
) -> ChildEnded:
    """Run a program to its end; see `Child` for the arguments and `Child.finish` for the rest."""
    child = Child(command, stdin=PIPE, stdout=PIPE, environment=environment, folder=folder)
    return child.finish(given, limit)


def python(code: str, *arguments: str) -> list[str]:
    """Write a command that runs `code` in this interpreter, which finds the same modules.

    The code sees the arguments as ``sys.argv[1:]``.
    """
    path = json.dumps([os.path.abspath(entry) for entry in sys.path])
    start = f"import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); {code}"
    return [sys.executable, "-c", start, path, *arguments]


def is_alive(pid: int) -> bool:
    """Tell whether there is a process of that number on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _watcher_of(group: int) -> subprocess.Popen[Any]:
    """Start a shell that kills a process group when this process is gone, and its input with it."""
    return subprocess.Popen(
        ["/bin/sh", "-c", f"read _; kill -s KILL -- -{group}"],
        stdin=PIPE,
        stdout=DEVNULL,
        stderr=DEVNULL,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[Any], watcher: subprocess.Popen[Any] | None, owner: int) -> None:
    if os.getpid() != owner:
        return
    # Also if it has ended by itself: what it started may live on in its group.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if watcher is not None:
        watcher.kill()
    for each in filter(None, (process, watcher)):
        with contextlib.suppress(subprocess.TimeoutExpired):
            each.wait(_PATIENCE)
        for pipe in filter(None, (each.stdin, each.stdout)):
            # Closing flushes, and nobody reads any more.
            with contextlib.suppress(OSError):
                pipe.close()
