"""No text can command a terminal, and a text that does not try is shown as it is."""

from __future__ import annotations

import io
import json
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.panel import Panel
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from turnrl.foundation.printable import escaped, visible
from turnrl.foundation.terminal import Terminal

COMMANDS = {
    "title": "\x1b]0;owned\x07",
    "title, C1": "\x9d2;owned\x9c",
    "screen": "\x1b[2J\x1b[H",
    "colour, C1": "\x9b31m",
    "clipboard": "\x1b]52;c;b3duZWQ=\x1b\\",
    "device": "\x1bP+q544e\x1b\\",
    "reset": "\x1bc",
    "charset": "\x1b(0",
    "bell": "\x07",
    "erased": "secret\b\b\b\b\b\b",
    "overwritten": "\r",
    "form feed": "\f",
    "delete": "\x7f",
    "right to left": "\u202e",
    "isolate": "\u2067",
    "mark": "\u200f",
    "tag": "\U000e0041",
    "NUL": "\x00",
    "unfinished": "\x1b]0;",
    "nested": "\x1b\x1b[0m[31m",
    "half a pair": "\ud800",
}
KEPT = {"\n", "\t"}


def commands(text: str) -> list[str]:
    """Characters of a text that are not shown but do something."""
    hidden = [
        c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in KEPT
    ]
    return hidden + re.findall(
        "[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c\U000e0000-\U000e007f]", text
    )


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_command_to_the_terminal_is_left_out(command: str) -> None:
    shown = visible(f"You see {command}a lamp.")
    assert not commands(shown)
    assert shown.startswith("You see ")
    assert shown.endswith("a lamp.")


@pytest.mark.parametrize(
    "name", ["title", "title, C1", "screen", "colour, C1", "clipboard", "device", "reset"]
)
def test_whole_sequences_leave_nothing_behind(name: str) -> None:
    assert visible(f"You see {COMMANDS[name]}a lamp.") == "You see a lamp."


@given(st.text())
def test_any_text_is_harmless_and_is_left_alone_the_second_time(text: str) -> None:
    shown = visible(text)
    assert not commands(shown)
    assert visible(shown) == shown


@given(st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" \n\t")))
def test_text_without_commands_is_shown_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_lines_of_other_systems_stay_lines() -> None:
    assert visible("one\r\ntwo\u2028three\u2029four") == "one\ntwo\nthree\nfour"


def test_a_megabyte_of_half_sequences_takes_no_time() -> None:
    for part in ("\x1b[", "\x1b]", "\x1b", "\x9d0;", "\x1b\x1b[0m"):
        assert "\x1b" not in visible(part * 300_000)


@given(st.dictionaries(st.text(), st.text() | st.lists(st.text())))
def test_json_says_the_same_and_commands_nothing(data: dict[str, object]) -> None:
    for indent in (None, 2):
        text = escaped(json.dumps(data, ensure_ascii=False, indent=indent))
        assert not commands(text)
        assert json.loads(text) == data


@pytest.mark.parametrize("colours", [True, False])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_nothing_that_a_console_prints_commands_the_terminal(command: str, colours: bool) -> None:
    told = f"You see {command}a lamp."
    plain, hostile = (printed(text, colours) for text in ("You see a lamp.", told))
    # What rich writes itself is the same in both: colours and movements of the cursor.
    own = r"\x1b\[[0-9;?]*[a-zA-Z]|\r"
    assert re.findall(own, hostile) == re.findall(own, plain)
    assert not commands(re.sub(own, "", hostile))


def printed(text: str, colours: bool) -> str:
    file = io.StringIO()
    console = Terminal(file=file, width=200, force_terminal=colours, highlight=False)
    console.print(Text(text, style="bold red"), Panel(Text(text), title="turn 1"))
    console.print(text, markup=False)
    table = Table("what", title=Text(text))
    table.add_row(Text(text))
    console.print(table)
    with Progress(console=console, auto_refresh=False) as progress:
        progress.add_task(text, total=1)
    return file.getvalue()
