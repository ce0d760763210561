"""The tuned interpreter: really compiled, really profiled, and it plays like the installed one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from turnrl.foundation.errors import UserError

pytest.importorskip("jericho", reason="pip install 'turnrl[textworld]'")

from turnrl.envs.textworld import tune
from turnrl.envs.textworld.generate import GameKey, generate
from turnrl.envs.textworld.settings import CookingSettings, SimpleSettings


@pytest.mark.timeout(900)
def test_a_tuned_interpreter_plays_other_games_alike(
    tmp_path: Path, program: Callable[[str], str]
) -> None:
    program("gcc")
    before = (tune.installed() / tune.LIBRARY).read_bytes()
    library = tune.build(tmp_path)
    tuned = library.read_bytes()
    [source] = tmp_path.glob("jericho-*/frotz")
    assert list(source.rglob("*.gcda")), "nothing was profiled"
    assert tune.compiled(source, "gcc").read_bytes() != tuned, "the profile was not used"
    assert (tune.installed() / tune.LIBRARY).read_bytes() == before, "build() exchanges nothing"
    keys = [
        GameKey("cooking", CookingSettings().params(), 1),
        GameKey("simple", SimpleSettings().params(), 1),
    ]
    games = [str(path) for path in generate(keys)]
    assert tune.play(library.parent, games) == tune.play(tune.installed(), games)
    assert tune.play(library.parent, games[:1]) != tune.play(library.parent, games)


def test_another_compiler_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "true")
    with pytest.raises(UserError, match="needs gcc, and 'true' is another compiler"):
        tune.build(tmp_path)
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(UserError, match="needs 'no-such-compiler', which is not installed"):
        tune.build(tmp_path)


def test_an_interpreter_that_answers_otherwise_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["installed", "profiled", "tuned"])
    monkeypatch.setattr(tune, "play", lambda package, games: next(answers))
    monkeypatch.setattr(tune, "fetch", lambda folder: folder)
    monkeypatch.setattr(tune, "compiled", lambda source, compiler: tune.installed() / tune.LIBRARY)
    with pytest.raises(UserError, match="answers otherwise"):
        tune.build(tmp_path)


def test_asking_for_help_rebuilds_nothing() -> None:
    before = (tune.installed() / tune.LIBRARY).stat().st_mtime_ns
    command = [sys.executable, "-m", "turnrl.envs.textworld.tune"]
    assert (
        "Rebuild the interpreter"
        in subprocess.run([*command, "--help"], capture_output=True, text=True).stdout
    )
    assert subprocess.run([*command, "--hlep"], capture_output=True).returncode == 2
    assert (tune.installed() / tune.LIBRARY).stat().st_mtime_ns == before
