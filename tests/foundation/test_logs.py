"""The package is quiet in a program of somebody else, and says in its own what went wrong."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from turnrl.foundation.logs import shown_on_stderr

LOGGER = logging.getLogger("turnrl.somewhere.deep")


def test_a_library_says_nothing_unless_it_is_asked_to() -> None:
    warn = "import logging, turnrl; logging.getLogger('turnrl.envs').warning('a lamp burst')"
    for before, said in (("", ""), ("import logging; logging.basicConfig(); ", "a lamp burst")):
        done = subprocess.run(
            [sys.executable, "-c", before + warn],
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        assert not done.stdout
        assert (said in done.stderr) if said else not done.stderr


def test_each_text_is_one_line_and_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_on_stderr():
        for _ in range(2):
            LOGGER.warning("%s burst\nin \x1b]0;a title\x07the \x1b[31mhall", "a lamp")
        LOGGER.info("a download begins")
        LOGGER.debug("nobody wants to know")
    assert capsys.readouterr().err == (
        "turnrl: warning: a lamp burst in the hall\nturnrl: a download begins\n"
    )


def test_a_context_within_another_says_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_on_stderr():
        with shown_on_stderr():
            LOGGER.warning("one")
        LOGGER.warning("two")
    with shown_on_stderr(False):
        LOGGER.warning("three")
    LOGGER.warning("four")
    assert capsys.readouterr().err == "turnrl: warning: one\nturnrl: warning: two\n"


def test_nobody_who_listens_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE, encoding="utf-8")
    reader.wait()
    assert reader.stdin is not None
    monkeypatch.setattr(sys, "stderr", reader.stdin)
    with shown_on_stderr():
        LOGGER.warning("is anybody there?")
    monkeypatch.undo()
    with pytest.raises(BrokenPipeError):
        reader.stdin.close()
