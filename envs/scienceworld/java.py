"""One Java process that runs the ScienceWorld simulator, and the few calls that playing needs::

    java = Java()
    game = java.new("scienceworld.runtime.pythonapi.PythonInterface")
    java.call(game, "load", "boil", 0, "easy", False)
    java.call(game, "step", "look around")        # 'This room is called the hallway. ...'
    java.close()

The process serves py4j's gateway; this module speaks its protocol over one socket, without py4j's
finalizers, callback server and logging, so that nothing is said or sent behind the player's back
when the process dies. The process ends when its standard input does, so it cannot outlive this one,
however this one ends.
"""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
import socket
import threading
from collections import deque
from subprocess import PIPE, STDOUT
from typing import IO, Any, NewType

from py4j.protocol import get_command_part, unescape_new_line
from scienceworld.constants import BASEPATH, JAR_PATH

from ...foundation.errors import UserError
from ...foundation.processes import Child, run

OLDEST_JAVA = 8
"""What the classes of the jar were compiled for."""
_FIRST_CLOSED = 9
"""The first Java that must be told to show the state of its random numbers."""
Ref = NewType("Ref", str)
"""A Java object, by the name the gateway gave it."""
_FLAGS = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    # Hash sets of objects without a hash of their own are walked in the same order in every
    # process.
    "-XX:+UnlockExperimentalVMOptions",
    "-XX:hashCode=2",
    # No file in /tmp, and none in the current directory when it crashes; better dead than swapping
    # garbage.
    "-XX:-UsePerfData",
    "-XX:+SuppressFatalErrorMessage",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:+IgnoreUnrecognizedVMOptions",
)
_LAST_LINES = 20


def find_java() -> tuple[str, int]:
    """Find a Java that can run the simulator, and return its path and version.

    Raises UserError where there is none, or an older one.
    """
    path = shutil.which("java")
    hint = "install a Java runtime, e.g. apt install openjdk-17-jre-headless"
    if path is None:
        raise UserError(
            f"scienceworld needs Java {OLDEST_JAVA} or later, and there is no 'java' on the PATH:"
            f" {hint}"
        )
    version = _version(path)
    if version is None or version < OLDEST_JAVA:
        found = f"is Java {version}" if version else "does not say its version"
        raise UserError(
            f"scienceworld needs Java {OLDEST_JAVA} or later, and {path} {found}: {hint}"
        )
    return path, version


@functools.lru_cache
def _version(path: str) -> int | None:
    """Ask a Java for its version; None where it does not say one.

    8 of 'java version "1.8.0_442"', 17 of 'openjdk version "17.0.15"'.

    None where it does not say one.
    """
    try:
        ended = run([path, "-XX:-UsePerfData", "-version"], limit=60)
    except OSError:  # a TimeoutError is one
        return None
    match = re.search(
        r'version "(?:1\.)?(\d+)', ended.words + ended.output.decode(errors="replace")
    )
    return int(match[1]) if match else None


class Java:
    """A running Java process with the simulator on its class path. Not for use by two threads at
    once.

    Args:
        heap_mb: most MiB that its objects may take.

    Raises:
        UserError: there is no Java, or an old one.
        RuntimeError: it does not start; also from every call after it has died.
    """

    def __init__(self, heap_mb: int) -> None:
        path, version = find_java()
        opened = (
            ("--add-opens=java.base/java.util=ALL-UNNAMED",) if version >= _FIRST_CLOSED else ()
        )
        command = [path, f"-Xmx{heap_mb}m", *_FLAGS, *opened, "-cp", JAR_PATH]
        self._child = Child(
            [*command, "py4j.GatewayServer", "--die-on-broken-pipe", "0"],
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
            # It reads a table of its own there, and writes one where there is none.
            folder=BASEPATH,
            watched=False,
        )
        self.process = self._child.process
        assert self.process.stdout is not None
        self._said: deque[bytes] = deque(maxlen=_LAST_LINES)
        self._link = socket.socket()
        try:
            port = self._port(self.process.stdout)
            self._link.connect(("127.0.0.1", port))
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise RuntimeError(
                    f"the ScienceWorld simulator does not start: {self._last_words()}"
                ) from error
            raise
        self._link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = self._link.makefile("rb")
        # It prints at every step and would wait for ever once the pipe is full.
        threading.Thread(
            target=_listen, args=(self.process.stdout, self._said), daemon=True
        ).start()

    def close(self) -> None:
        """End the Java process and wait until it is gone; may be called twice."""
        self._link.close()
        self._child.end()

    def _port(self, output: IO[bytes]) -> int:
        """Read the port, which the gateway prints first; Java may say something else before."""
        for line in output:
            self._said.append(line)
            if line.strip().isdigit():
                return int(line)
        raise OSError("no port")

    def new(self, name: str) -> Ref:
        """Make a new object of a class."""
        return Ref(self._ask(f"i\n{name}\n"))

    def static(self, name: str, field: str) -> Ref:
        """Return the object in a static field of a class."""
        return Ref(self._ask(f"r\nm\n{name}\n{field}\n"))

    def call(self, target: Ref, method: str, *arguments: object) -> Any:
        """Call a method; it returns text, a number, a truth value, None or an object's Ref."""
        parts = [
            part.part if isinstance(part, Argument) else get_command_part(part)
            for part in arguments
        ]
        return self._ask(f"c\n{target}\n{method}\n{''.join(parts)}")

    def lines(self, target: Ref, method: str, *arguments: object) -> list[str]:
        """Call a method that returns a collection of texts without line breaks, in one go."""
        found = Ref(self.call(target, method, *arguments))
        text: str = self.call(Ref("z:java.lang.String"), "join", "\n", Argument(f"r{found}\n"))
        self._ask(f"m\nd\n{found}\n")
        return text.split("\n") if text else []

    def _ask(self, command: str) -> Any:
        try:
            self._link.sendall(f"{command}e\n".encode())
            reply = self._replies.readline().decode()
            if not reply:
                raise ConnectionResetError
        except BaseException as error:
            # Whatever interrupts the wait, the next reply would be that of this command.
            self.close()
            if isinstance(error, OSError):
                raise RuntimeError(
                    f"the ScienceWorld simulator died: {self._last_words()}"
                ) from error
            raise
        kind, value = reply[1:3], reply[3:-1]
        if not kind.startswith("y"):
            if reply.startswith("!xr"):
                value = self.call(Ref(value), "toString")
            raise RuntimeError(f"the ScienceWorld simulator failed: {value}")
        return _READ.get(kind[1:], str)(value)

    def _last_words(self) -> str:
        said = b"".join(self._said).decode(errors="replace").strip()
        return f"exit code {self.process.poll()}, last output: {said[-1000:]}"


class Argument:
    """An argument that Python has no type for, as the protocol writes it: 'L5' is a long, 'ro3' the
    object o3.
    """

    def __init__(self, part: str) -> None:
        self.part = part


_READ: dict[str, Any] = {
    "s": unescape_new_line,
    "i": int,
    "L": int,
    "d": float,
    "b": "true".__eq__,
    "n": lambda _: None,
    "v": lambda _: None,
    "": lambda _: None,
}


def _listen(output: IO[bytes], said: deque[bytes]) -> None:
    # Another thread closes the pipe.
    with contextlib.suppress(ValueError, OSError):
        said.extend(output)
