"""Server: the vLLM process, from its start to its end, in an environment of its own."""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path
from subprocess import DEVNULL
from typing import TYPE_CHECKING, Any

from ....foundation.errors import UserError
from ....foundation.processes import Child

if TYPE_CHECKING:
    from . import VllmEngineConfig

MODEL = "policy"
"""Name of the model, as the server knows it."""
INSIDE = Path(__file__).parent / "inside"
"""What the server is given to import."""
VARIABLE = "TURNRL_VLLM_PYTHON"
VENV = Path(".venv-vllm/bin/python")
HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Sizes of an attention head that vLLM has kernels for on a processor."""
_MALLOC = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4")
_LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
_PAUSE, _PATIENCE = 0.25, 10.0
_LINES = 200
"""Lines at the end of a log among which the cause of an end is looked for."""


class Server:
    """A vLLM server that is started here, listens on a socket in a private folder, and ends with
    this process.

    Args:
        config: how it is started.
        folder: holds its socket and what it says.
        max_context: longest prompt plus response, in tokens.

    Raises UserError where there is no interpreter for it.
    """

    def __init__(self, config: VllmEngineConfig, folder: Path, max_context: int) -> None:
        self.config, self.folder, self.max_context = config, folder, max_context
        self.python = interpreter(config.python)
        self.socket = folder / "socket"
        self._log = folder / "log"
        self._child: Child | None = None
        self.starts = 0
        """How often it was started."""

    @property
    def runs(self) -> bool:
        """Tell whether its process is there."""
        return self._child is not None and self._child.process.poll() is None

    @property
    def process(self) -> int:
        """Return the number of its process, which leads a group of its own."""
        assert self._child is not None
        return self._child.process.pid

    def start(self, model: Path) -> None:
        """Start it with the model of a folder, and wait until it answers.

        Raises UserError, with the server's own words, if it does not.
        """
        self.end()
        self.starts += 1
        with self._log.open("wb") as log:
            self._child = Child(
                self.command(model),
                stdout=log.fileno(),
                stderr=log.fileno(),
                stdin=DEVNULL,
                environment=self.environment(),
                folder=self.folder,
            )
        deadline = time.monotonic() + self.config.start_seconds
        try:
            while not answers(self.socket):
                if not self.runs:
                    raise UserError(f"vLLM's server ended before it answered: {self.why()}")
                if time.monotonic() > deadline:
                    raise UserError(
                        f"vLLM's server did not answer within {self.config.start_seconds:g} s"
                        f" (engine.start_seconds); its last words: {self.why()}"
                    )
                time.sleep(_PAUSE)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """End it and all that it started. May be called twice."""
        if self._child is not None:
            if self.runs:
                # Killed at once, it would leave semaphores in shared memory.
                self._child.process.terminate()
            self._child.end(_PATIENCE)
        self.socket.unlink(missing_ok=True)

    def why(self) -> str:
        """Return what it said about its end: the first error in its words, or the last line."""
        return cause(self._log.read_text("utf-8", errors="replace") if self._log.exists() else "")

    def command(self, model: Path) -> list[str]:
        """Return its command line."""
        given = {
            "--model": model,
            "--served-model-name": MODEL,
            "--dtype": self.config.dtype,
            # One more than a prompt with its response: scoring samples a token that nobody wants.
            "--max-model-len": self.max_context + 1,
            "--max-num-seqs": self.config.max_batch,
            "--worker-extension-cls": "weight_push.WeightPush",
            "--generation-config": "vllm",
            "--distributed-executor-backend": "uni",
            "--uds": self.socket,
        }
        flags = (
            "--enforce-eager",
            "--enable-prefix-caching",
            "--enable-prompt-tokens-details",
            "--disable-log-stats",
            "--disable-uvicorn-access-log",
        )
        pairs = [str(part) for pair in given.items() for part in pair]
        module = "vllm.entrypoints.openai.api_server"
        return [self.python, "-m", module, *pairs, *flags, *self.config.arguments]

    def environment(self) -> dict[str, str]:
        """Return its environment variables: those of this process, without its Python path."""
        own = {
            "PYTHONPATH": str(INSIDE),
            "OMP_NUM_THREADS": str(self.config.threads),
            "VLLM_CPU_KVCACHE_SPACE": str(self.config.memory),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # One process computes, and no other is asked by messages.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            # The last place of a full context is sampled, never encoded.
            "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_RPC_BASE_PATH": str(self.folder),
            "TMPDIR": str(self.folder),
            "VLLM_LOGGING_LEVEL": "WARNING",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
        }
        if malloc := _malloc():
            own["LD_PRELOAD"] = ":".join(filter(None, (os.environ.get("LD_PRELOAD"), malloc)))
        return {**os.environ, **own}


def interpreter(named: str | None) -> str:
    """Find the interpreter of the environment that vLLM is installed in.

    Raises UserError, with what makes one, if there is none.
    """
    where = "engine.python" if named is not None else VARIABLE
    given = named if named is not None else os.environ.get(VARIABLE)
    path = (Path(given) if given else VENV).expanduser().absolute()
    if path.is_file() and os.access(path, os.X_OK):
        return str(path)
    if given:
        raise UserError(f"{where} is '{given}', and that is no interpreter")
    raise UserError(
        "engine 'vllm' needs vLLM in an environment of its own: run make setup-vllm, or name its"
        f" interpreter by engine.python or the environment variable {VARIABLE}"
    )


def cause(words: str) -> str:
    """Return the line of a log that says why a server ended.

    The first error is the cause; those of the processes that waited for it come after.
    """
    lines = [line.strip() for line in words.splitlines() if line.strip()][-_LINES:]
    errors = (
        found[1]
        for line in lines
        if (found := re.search(r"(?:^|\s)((?:\w+\.)*\w*(?:Error|Exception)(?:: .*|$))", line))
    )
    return next(errors, lines[-1] if lines else "it said nothing")[:500]


def answers(path: Path) -> bool:
    """Tell whether a server that listens on a socket says that it is well."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE)
        try:
            connection.connect(str(path))
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: vllm\r\nConnection: close\r\n\r\n")
            said = b"".join(iter(lambda: connection.recv(4096), b""))
            return re.match(rb"HTTP/1\.\d 200 ", said) is not None
        except OSError:
            return False


def servable(config: Any) -> None:
    """Raise UserError for a model that vLLM has no kernels for on a processor."""
    heads = getattr(config, "num_attention_heads", None)
    width = getattr(config, "hidden_size", None)
    size = getattr(config, "head_dim", None) or (width // heads if width and heads else None)
    if size is not None and size not in HEADS:
        raise UserError(
            f"vLLM on a CPU serves attention heads of {', '.join(map(str, HEADS))} numbers, and"
            f" those of this model have {size}: choose model.width and model.heads so that"
            " width / heads is one of them, or the engine torch"
        )


def _malloc() -> str | None:
    """Find a faster allocator than the system's; the server does without it as well."""
    paths = (Path(folder) / name for name in _MALLOC for folder in _LIBRARIES)
    return next((str(path) for path in paths if path.exists()), None)
