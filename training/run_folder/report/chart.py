"""Chart: lines with bands as plain geometry, drawn as inline SVG by the template."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 440.0, 200.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 12.0, 8.0, 24.0
MOST_POINTS = 240
"""Longer series are averaged over neighbouring steps, and say so."""
MOST_DOTS = 60
"""Points of a line that say their value under the pointer; of more, every so many do."""
COLOURS = 6

Point = tuple[float, float]


@dataclass(slots=True)
class Series:
    """Data of one line; `band` holds (x, low, high)."""

    name: str
    points: list[Point]
    band: list[tuple[float, float, float]] = field(default_factory=list)


@dataclass(slots=True)
class ChartLine:
    """One line, ready to draw: SVG path data and dots with their labels."""

    name: str
    colour: int
    last: str
    path: str
    band: str
    dots: list[tuple[float, float, str]]
    thin: bool
    """Whether the dots only answer the pointer: the points are too many to draw."""


@dataclass(slots=True)
class Chart:
    """A chart, ready to draw."""

    title: str
    note: str
    lines: list[ChartLine]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    bottom: float = HEIGHT - BOTTOM


def show(value: float) -> str:
    """Write a number in at most four significant digits."""
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.1e}"
    return f"{value:.4g}"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Choose round numbers that span [low, high]; the outer ones may lie beyond it."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    while (high - low) / step > most:
        step *= 2.5 if f"{step:e}".startswith("2") else 2
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def thin(points: Sequence[Point]) -> tuple[list[Point], int]:
    """Keep at most MOST_POINTS points, each a mean of neighbours; return also of how many."""
    size = math.ceil(len(points) / MOST_POINTS) or 1
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    return [(chunk[-1][0], sum(y for _, y in chunk) / len(chunk)) for chunk in chunks], size


def draw(
    title: str, series: Sequence[Series], *, note: str = "", bounds: Point | None = None
) -> Chart | None:
    """Draw lines as the geometry of a chart, or None if there is nothing to draw.

    Args:
        bounds: lowest and highest y; else they are taken from the data.
    """
    series = [one for one in series if one.points]
    if not series:
        return None
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points] + [
        y for one in series for b in one.band for y in b[1:]
    ]
    low, high = bounds or (min(ys), max(ys))
    if high - low < 1e-12:
        low, high = low - max(abs(low) * 0.1, 0.1), high + max(abs(high) * 0.1, 0.1)
    y_values = ticks(low, high)
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    x_values = [x for x in ticks(x_low, x_high) if x_low <= x <= x_high and x == int(x)]

    def px(x: float) -> float:
        return round(LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def py(y: float) -> float:
        share = (y - y_values[0]) / (y_values[-1] - y_values[0])
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    lines: list[ChartLine] = []
    for i, one in enumerate(series):
        points, size = thin(one.points)
        if size > 1:
            note = f"{note}; each point is the mean of {size} steps".removeprefix("; ")
        upper = [f"{px(x)},{py(top)}" for x, _, top in one.band]
        lower = [f"{px(x)},{py(base)}" for x, base, _ in reversed(one.band)]
        intervals = {x: f" ({show(base)} to {show(top)})" for x, base, top in one.band}
        lines.append(
            ChartLine(
                name=one.name,
                colour=i % COLOURS,
                last=show(points[-1][1]),
                path="M" + " L".join(f"{px(x)},{py(y)}" for x, y in points),
                band=f"M{' L'.join(upper + lower)} Z" if len(one.band) > 1 else "",
                dots=[
                    (px(x), py(y), f"{one.name} at step {x:g}: {show(y)}{intervals.get(x, '')}")
                    for x, y in points[:: math.ceil(len(points) / MOST_DOTS)]
                ],
                thin=len(points) > MOST_DOTS,
            )
        )
    return Chart(
        title,
        note,
        lines,
        [(px(x), f"{x:g}") for x in x_values],
        [(py(y), show(y)) for y in y_values],
    )
