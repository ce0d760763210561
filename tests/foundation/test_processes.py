"""A child ends with all that it started, whoever ends first, and says why it ended."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

import psutil
import pytest
from turnrl.foundation.processes import Child, is_alive, python, run

FAMILY = """
import subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(grandchild.pid, flush=True)
time.sleep(float(sys.argv[1]))
"""


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process ends in time; one that nobody has waited for yet counts as gone."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def family(seconds: float = 600) -> tuple[Child, int]:
    child = Child(python(FAMILY, str(seconds)), stdout=PIPE)
    assert child.process.stdout is not None
    return child, int(child.process.stdout.readline())


def test_it_ends_with_all_that_it_started_and_leaves_no_zombie() -> None:
    before = {process.pid for process in psutil.Process().children()}
    child, grandchild = family()
    child.end()
    child.end()
    assert gone(grandchild)
    assert child.process.returncode == -signal.SIGKILL
    assert {process.pid for process in psutil.Process().children()} <= before


def test_what_a_child_that_ended_has_left_behind_ends_too() -> None:
    child, grandchild = family(0)
    child.process.wait(30)
    assert is_alive(grandchild)
    child.end()
    assert gone(grandchild)


def test_a_child_that_is_forgotten_ends() -> None:
    child, grandchild = family()
    pid = child.process.pid
    del child
    gc.collect()
    assert gone(pid)
    assert gone(grandchild)


@pytest.mark.parametrize(
    "last", ["pass", "import os; os.kill(os.getpid(), 9)", "raise SystemError"]
)
def test_a_child_does_not_outlive_this_process_however_it_ends(last: str) -> None:
    code = f"""
from subprocess import PIPE
from turnrl.foundation.processes import Child, python
child = Child(python({FAMILY!r}, "600"), stdout=PIPE)
print(child.process.pid, child.process.stdout.readline().decode(), flush=True)
{last}
"""
    done = subprocess.run(python(code), capture_output=True, encoding="utf-8", check=False)
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    assert all(map(gone, pids))


def test_a_fork_of_this_process_ends_nothing() -> None:
    child, _ = family()
    copy = os.fork()
    if not copy:
        child.end()
        os._exit(0)
    os.waitpid(copy, 0)
    assert child.process.poll() is None
    child.end()


def test_a_program_is_given_its_input_and_answers() -> None:
    code = (
        "import sys; print(sys.stdin.read().upper(), sys.argv[1:]); print('well', file=sys.stderr)"
    )
    ended = run(python(code, "a b"), given=b"x" * 1_000_000)
    assert ended.code == 0
    assert ended.output.split() == [b"X" * 1_000_000, b"['a", b"b']"]
    assert ended.words == "well"


def test_last_words_are_the_end_of_stderr_or_the_exit_code() -> None:
    code = "import sys; sys.stderr.write('long ago ' * 1000 + 'at last'); sys.exit(3)"
    ended = run(python(code))
    assert (ended.code, ended.words[-7:]) == (3, "at last")
    assert len(ended.words) <= 2000
    assert run(python("import sys; sys.exit(3)")).words == "exit code 3, nothing on stderr"


def test_a_program_that_takes_too_long_is_killed() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"did not end within 0\.3 s"):
        run(python(FAMILY, "600"), limit=0.3)
    assert time.monotonic() - began < 30
    alive = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    assert not [p for p in alive if "time.sleep(600)" in str(p.cmdline())]


def test_a_program_that_is_not_there_is_an_os_error() -> None:
    with pytest.raises(FileNotFoundError):
        run(["no such program"])


def test_python_finds_the_same_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    ended = run(python("print(json.dumps(sys.path))"), folder="/")
    assert json.loads(ended.output) == [os.path.abspath(entry) for entry in sys.path]
    assert json.loads(ended.output)[0] == str(tmp_path)
