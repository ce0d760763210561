"""Print with rich, and let no printed text command the terminal: it goes through `visible`.

This module imports rich, so whoever prints imports it when it prints.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from .printable import visible


class Terminal(Console):
    """A console of rich, colours included, that leaves out the control characters of texts."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render what is to be printed; only what rich itself made may command the terminal."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))
