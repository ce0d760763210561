"""What is kept is complete: others may make the same, be killed, or fail."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from turnrl.envs.cache import cache_dir, kept, kept_folder, sweep


def test_the_cache_is_where_the_system_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir("search", "bm25") == tmp_path / "turnrl" / "search" / "bm25"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_dir() == Path.home() / ".cache" / "turnrl"


def test_the_second_to_finish_throws_its_own_away(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "whole").write_text("mine")
        (tmp_path / "place").mkdir()  # another process was quicker
        (tmp_path / "place" / "whole").write_text("theirs")

    assert kept_folder(tmp_path / "place", fill) == tmp_path / "place"
    assert (tmp_path / "place" / "whole").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise ValueError

    with pytest.raises(ValueError):
        kept(tmp_path / "deep" / "place", fail)
    assert not list((tmp_path / "deep").iterdir())


def test_threads_make_a_thing_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_text("x")

    threads = [threading.Thread(target=kept, args=(tmp_path / "place", make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_what_killed_processes_left_behind_is_swept(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    node = platform.node()
    names = {
        "of a dead process": f"tmp-{node}-{ended.pid}-abc", "of a living one": f"tmp-{node}-{os.getpid()}-abc",
        "of another machine": f"tmp-else-where-{ended.pid}-abc", "nobody's": "tmp-abc", "old": "tmp-old",
        "a game": "coin-1",
    }  # fmt: skip
    for name in names.values():
        (tmp_path / name / "deeper").mkdir(parents=True)
    os.utime(tmp_path / names["old"], (0, 0))
    sweep(tmp_path)
    left = {what for what, name in names.items() if (tmp_path / name).exists()}
    assert left == {"of a living one", "of another machine", "nobody's", "a game"}
