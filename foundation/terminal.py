"""A console of rich that shows text and obeys none of it: what it prints goes through `visible`.

It imports rich, so whoever prints imports it when it prints.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from .printable import visible


class Terminal(Console):
    """Prints as its base class does, colours included, but for control characters within texts."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render what is to be printed; only what rich itself made may command the terminal."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))
