"""Small runs in processes of their own, for kills.py and damage.py, in a toy world.

They are forked where everything is imported.

A fork starts in milliseconds and shares no state with the other runs; only the memory of the
imports is the same.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import psutil
import torch
import transformers.models.qwen2.modeling_qwen2  # noqa: F401  (what every run needs, imported once)
from turnrl import Recipe, UserError, train
from turnrl.training.interrupt import first_signal

WORLD = Path(__file__).parents[1] / "tests" / "toy_world.py"


def toy_world() -> Any:
    """Import the module of the toy world, which registers itself."""
    spec = importlib.util.spec_from_file_location("toy_world", WORLD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy_world"] = module
    spec.loader.exec_module(module)
    return module


def small_recipe(backend: str, **changes: Any) -> dict[str, Any]:
    """Make a recipe of both stages with evaluations and tests; seconds on one core."""
    data: dict[str, Any] = toy_world().recipe(
        pool={"backend": backend, "workers": 1, "imports": [str(WORLD)]},
        sft={"epochs": 4, "validate_every": 2, "checkpoint_every": 2},
        rl={"steps": 4, "checkpoint_every": 2, "episodes_every": 2, "credit": {"name": "gae"}},
        evaluate={"every": 2, "tasks": 2, "test_tasks": 2},
    )
    return data | changes


@dataclass
class Child:
    """A forked process that does one thing.

    Args:
        work: what it does; returns its exit code. What it prints goes to `output`.
    """

    pid: int
    output: Path
    code: int | None = None
    """Once it has ended: the exit code, or minus the signal that ended it."""

    @classmethod
    def start(cls, home: Path, work: Callable[[], int]) -> Child:
        """Fork a process; its temporary files and its workers' lie in ``home/tmp``."""
        temporary, output = home / "tmp", home / "output"
        temporary.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return cls(pid, output)
        code = 70
        try:
            os.setsid()
            os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
            with output.open("w") as file:
                for stream in (1, 2):
                    os.dup2(file.fileno(), stream)
            code = work()
            sys.stdout.flush()
        except BaseException as error:  # a traceback is what must never be seen
            print(f"Traceback: {type(error).__name__}: {error}", flush=True)
        finally:
            os._exit(code)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end of the child, `seconds` at most; return whether it came."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, 0 if deadline is None else os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif deadline is not None and time.monotonic() > deadline:
                return False
            else:
                time.sleep(0.002)
        return True

    def kill(self, tree: bool) -> None:
        """Kill the child's process group, or the child with all its workers, by SIGKILL.

        Workers lie in groups of their own.
        """
        kill_all(self.pid, tree)
        self.wait()

    def said(self) -> str:
        """Return what the child printed."""
        return self.output.read_text("utf-8", errors="replace")


def kill_all(pid: int, tree: bool) -> None:
    """Kill a process group, or a process with all its descendants, by SIGKILL."""
    children = psutil.Process(pid).children(recursive=True) if tree else []
    if pid != os.getpid():
        os.killpg(pid, signal.SIGKILL)
    for child in children:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    if pid == os.getpid():
        os.killpg(pid, signal.SIGKILL)


def trained(
    folder: Path, data: dict[str, Any], resume: bool, until: tuple[str, int, str] | None = None
) -> int:
    """Train in this process, as the command line does; return its exit code.

    Args:
        until: stage, step and kind of the record at which this process kills itself.
    """

    def on_record(record: dict[str, Any]) -> None:
        if (record["stage"], record["step"], record["kind"]) == until:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        train(Recipe.parse(data), run_dir=folder, resume=resume, on_record=on_record)
    except UserError as error:
        print(f"turnrl: {error}")
        return 2
    except KeyboardInterrupt as error:
        if (first := first_signal(error)) is None:
            raise
        return 128 + first.signum
    return 0


def facts(folder: Path) -> dict[str, Any]:
    """Collect what a run left, without what the clock says: equal for equal runs."""
    found: dict[str, Any] = {
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    }
    lines = [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    ]
    found["metrics"] = [
        {key: value for key, value in line.items() if "second" not in key} for line in lines
    ]
    for path in sorted((folder / "episodes").iterdir()):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            episodes = [json.loads(line) | {"seconds": 0.0} for line in file]
        found[path.name] = hashlib.sha256(json.dumps(episodes, sort_keys=True).encode()).hexdigest()
    for path in sorted((folder / "checkpoints").iterdir()):
        found[path.name] = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
    state = torch.load(folder / "checkpoints" / "last" / "trainer.pt", weights_only=True)
    found |= leaves(
        {key: value for key, value in state.items() if key not in ("seconds", "weights")}, "state"
    )
    result = json.loads((folder / "result.json").read_text("utf-8"))
    found["result"] = {key: value for key, value in result.items() if key != "seconds"} | {
        "phases": sorted(result["seconds"])
    }
    return found


def leaves(data: Any, name: str) -> dict[str, Any]:
    """List the leaves of nested data by their places; tensors as lists, for comparisons."""
    if isinstance(data, dict):
        return {
            place: leaf
            for key in data
            for place, leaf in leaves(data[key], f"{name}.{key}").items()
        }
    if isinstance(data, list | tuple):
        return {
            place: leaf
            for i, item in enumerate(data)
            for place, leaf in leaves(item, f"{name}.{i}").items()
        }
    return {name: data.tolist() if isinstance(data, torch.Tensor) else data}


def different(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    """Name what differs between two collections of facts."""
    return [name for name in sorted({*left, *right}) if left.get(name) != right.get(name)]


def processes_of(home: Path) -> list[psutil.Process]:
    """Find the processes that were started with a path below `home`."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                any(str(home) in argument for argument in process.cmdline())
                and process.pid != os.getpid()
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def left_behind(home: Path, seconds: float = 10.0) -> list[str]:
    """List processes and temporary files of runs that have ended.

    Workers get the time that they take to notice.
    """
    deadline = time.monotonic() + seconds
    while True:
        left = [f"process {process.pid}" for process in processes_of(home)]
        left += [f"tmp/{path.name}" for path in (home / "tmp").iterdir()]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


def cleared(folder: Path) -> Path:
    """Empty a folder, and return it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
