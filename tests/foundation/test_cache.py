"""What is kept is complete: others may make the same, be killed, or fail."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from turnrl import UserError
from turnrl.foundation import checksums
from turnrl.foundation.cache import cache_dir, fill_once, make_once, sweep
from turnrl.foundation.checksums import intact, write_sums
from turnrl.foundation.manifest import digest

from ..logged import logged, nothing_logged


def test_the_cache_is_where_the_system_wants_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir("search", "bm25") == tmp_path / "turnrl" / "search" / "bm25"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_dir() == Path.home() / ".cache" / "turnrl"


def test_the_second_to_finish_throws_its_own_away(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "whole").write_text("mine")
        (tmp_path / "place").mkdir()  # another process was quicker
        (tmp_path / "place" / "whole").write_text("theirs")
        write_sums(tmp_path / "place")

    assert fill_once(tmp_path / "place", fill) == tmp_path / "place"
    assert (tmp_path / "place" / "whole").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def half(path: Path) -> None:
        path.write_text("half")
        raise ValueError

    with pytest.raises(ValueError):
        make_once(tmp_path / "deep" / "place", half)
    assert not list((tmp_path / "deep").iterdir())


def test_threads_make_a_thing_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_text("x")

    threads = [
        threading.Thread(target=make_once, args=(tmp_path / "place", make)) for _ in range(8)
    ]
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
        "of a dead process": f"tmp-{node}-{ended.pid}-abc",
        "of a living one": f"tmp-{node}-{os.getpid()}-abc",
        "of another machine": f"tmp-else-where-{ended.pid}-abc",
        "nobody's": "tmp-abc",
        "old": "tmp-old",
        "a game": "coin-1",
    }
    for name in names.values():
        (tmp_path / name / "deeper").mkdir(parents=True)
    os.utime(tmp_path / names["old"], (0, 0))
    sweep(tmp_path)
    left = {what for what, name in names.items() if (tmp_path / name).exists()}
    assert left == {"of a living one", "of another machine", "nobody's", "a game"}


def halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path) -> None:
    held = bytearray(file.read_bytes())
    held[len(held) // 2] ^= 1
    file.write_bytes(held)


def remove(file: Path) -> None:
    file.unlink()


DAMAGE = [halve, empty, flip, remove]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("which", ["thing", "thing.sha256"])
def test_a_damaged_file_is_made_anew_and_said(
    tmp_path: Path, damage: Callable[[Path], None], which: str
) -> None:
    def make(path: Path) -> None:
        path.write_text("what was made")

    thing = make_once(tmp_path / "thing", make)
    damage(tmp_path / which)
    with told_damaged("thing") if (tmp_path / "thing").exists() else contextlib.nullcontext():
        make_once(thing, make)
    assert thing.read_text() == "what was made"
    with nothing_logged():
        make_once(thing, fail)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thing", "thing.sha256"]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("which", ["a", "deeper/b", "SHA256SUMS"])
def test_a_damaged_folder_is_made_anew_and_said(
    tmp_path: Path, damage: Callable[[Path], None], which: str
) -> None:
    def fill(folder: Path) -> None:
        (folder / "deeper").mkdir()
        (folder / "a").write_text("first")
        (folder / "deeper" / "b").write_text("second")

    thing = fill_once(tmp_path / "thing", fill)
    damage(thing / which)
    with told_damaged("thing"):
        fill_once(thing, fill)
    assert [(thing / "a").read_text(), (thing / "deeper" / "b").read_text()] == ["first", "second"]
    with nothing_logged():
        fill_once(thing, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_what_has_no_checksums_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "thing").write_text("from an earlier version")
    with told_damaged("thing"):
        make_once(tmp_path / "thing", writes("new"))
    assert (tmp_path / "thing").read_text() == "new"


def test_a_file_that_nobody_made_spoils_a_folder(tmp_path: Path) -> None:
    thing = fill_once(tmp_path / "thing", lambda folder: writes("x")(folder / "a"))
    (thing / "planted").write_text("y")
    assert not intact(thing)


def test_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "folder" / "b c").mkdir(parents=True)
    (tmp_path / "folder" / "b c" / "d").write_text("x")
    write_sums(tmp_path / "folder")
    subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=tmp_path / "folder", check=True
    )


def test_a_large_file_is_read_again_only_when_it_was_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(file: Path) -> str:
        read.append(file.name)
        return digest(file)

    monkeypatch.setattr(checksums, "digest", counted)
    monkeypatch.setattr(checksums, "LARGE", 4)
    thing = fill_once(tmp_path / "thing", fill_large_and_small)

    def opened_by_another_process() -> bool:
        read.clear()
        checksums._known.clear()
        return intact(thing)

    assert opened_by_another_process()
    assert read == ["small"]
    (thing / "large").write_bytes(b"0123456789")  # the same, but touched
    assert opened_by_another_process()
    assert sorted(read) == ["large", "small"]
    assert opened_by_another_process()
    assert read == ["small"]
    flip(thing / "large")
    assert not opened_by_another_process()


def fill_large_and_small(folder: Path) -> None:
    (folder / "large").write_bytes(b"0123456789")
    (folder / "small").write_bytes(b"0")
    time.sleep(0.02)  # the clock of a file system ticks some hundred times a second


def test_the_cache_is_its_users_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    make_once(cache_dir("a") / "b", writes("x"))
    assert cache_dir().stat().st_mode & 0o777 == 0o700


def test_a_cache_that_others_could_write_to_is_closed_and_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache_dir().mkdir()
    cache_dir().chmod(0o777)
    with logged("could be written to by other users"):
        make_once(cache_dir("a") / "b", writes("x"))
    assert cache_dir().stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_cache_of_another_user_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache_dir().mkdir()
    os.chown(cache_dir(), 12345, 12345)
    with logged("another user .number 12345.*XDG_CACHE_HOME"):
        make_once(cache_dir("a") / "b", writes("x"))


@pytest.mark.parametrize("place", ["a file/turnrl", "a file", "/sys/no-cache-here", "x" * 300])
def test_a_cache_that_cannot_be_written_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
    with pytest.raises(UserError, match=r"cache cannot be used: .*XDG_CACHE_HOME"):
        make_once(cache_dir("search") / "b", fail)


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, reason: int) -> None:
    def make(path: Path) -> None:
        path.write_text("half")
        raise OSError(reason, os.strerror(reason))

    with pytest.raises(UserError, match=os.strerror(reason)):
        make_once(tmp_path / "place", make)
    assert not list(tmp_path.iterdir())


def test_an_error_that_is_not_the_caches_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        make_once(
            tmp_path / "cache" / "place",
            lambda path: writes("x")(tmp_path / "no such folder" / "file"),
        )


def writes(text: str) -> Callable[[Path], None]:
    """What makes a file that says so."""

    def make(path: Path) -> None:
        path.write_text(text)

    return make


def fail(path: Path) -> None:
    raise AssertionError(f"{path} is made although it is there")


def told_damaged(name: str) -> contextlib.AbstractContextManager[Any]:
    return logged(f"{name} in the cache is damaged or of an earlier version")
