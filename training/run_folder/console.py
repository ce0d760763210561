"""The words of a run for a person: one line per look, in a log file as in a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ...foundation.terminal import Terminal
from .log import Record


class RunNarrator:
    """Prints one line per record: a look at the warm start, a step of learning, an evaluation.

    Args:
        lengths: number of steps of each stage, for "12/60"; None where that is not known.
    """

    def __init__(self, lengths: Mapping[str, int | None]) -> None:
        self.lengths, self.started = lengths, time.perf_counter()
        # Not wrapped: where it is no terminal, a line of a log is one line whatever its length.
        self.console = Terminal(stderr=True, highlight=False, soft_wrap=True)

    def __call__(self, record: Record) -> None:
        """Print one line for `record`, or none if it says little."""
        text = self._text(record)
        if text:
            self.console.print(f"{time.perf_counter() - self.started:6.0f} s  {text}")

    def say(self, text: str) -> None:
        """Print a line that is about the run itself."""
        self.console.print(text, markup=False)

    def _text(self, record: Record) -> str:
        if record["kind"] in ("eval", "test"):
            success = "-" if record["success"] is None else f"{record['success']:.0%}"
            return (
                f"{record['stage']} {record['step']}: [bold]{success}[/bold] of {record['n']} "
                f"{record['split']} tasks ({record['low']:.0%} to {record['high']:.0%})"
            )
        length = self.lengths.get(record["stage"])
        at = f"{record['stage']} {record['step']}{f'/{length}' if length else ''}"
        if "episodes" in record:
            seconds = sum(
                value for key, value in record.items() if key in ("seconds/play", "seconds/update")
            )
            forms = {"success": "{:.0%}", "return": "{:.2f}", "entropy": "{:.2f}"}
            known = {key: record.get(key) for key in forms}
            told = [
                f"{key} {'-' if value is None else forms[key].format(value)}"
                for key, value in known.items()
            ]
            lost = sum(value for key, value in record.items() if key.startswith("lost/"))
            told += [f"{lost:.0f} episodes lost"] if lost else []
            return f"{at}: {', '.join(told)}, {seconds:.1f} s"
        if "valid_loss" in record:
            return f"{at}: loss {record['loss']:.2f}, validation {record['valid_loss']:.3f}"
        return ""
