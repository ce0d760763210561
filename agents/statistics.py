"""Compare players and training runs: intervals and tests for paired numbers, without tables.

    result = paired([27, 21, 28, 29, 24], [56, 58, 56, 58, 52])  # wins of two arms, seed by seed
    print(result.difference.low, result.difference.high, result.p)
    adjusted = holm([result.p, another.p])  # as many as there are comparisons

Runs that differ in their training seed are one observation each, however many games each played:
use `mean_interval` and `paired` over seeds, never one interval over the games of all. Two players
on the same tasks are compared task by task, by `mcnemar`. Intervals that overlap are no test: ask
for the interval of the difference.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

MOST_FLIPPED = 20
"""Pairs up to which all ways to flip their signs are tried."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean of `n` independent numbers with the ends of its interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Paired:
    """The result of `paired` for n pairs."""

    difference: Mean
    """Second minus first, with its t interval."""
    p: float
    """Two-sided p of the paired t test."""
    p_flip: float
    """Two-sided p of the exact sign-flip test, at least 2 / 2^n; NaN for more than `MOST_FLIPPED`
    pairs.
    """


@dataclass(frozen=True, slots=True)
class McNemar:
    """The result of `mcnemar` for two players on the same tasks."""

    only_first: int
    """Tasks that the first player alone won."""
    only_second: int
    n: int
    """Tasks that both played."""
    p: float
    """Two-sided exact p."""


def t_two_sided(t: float, df: int) -> float:
    """Return P(|T| >= |t|) for Student's t with `df` >= 1 degrees of freedom.

    The finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4; exact to rounding, absolutely and
    not relatively.
    """
    if df < 1:
        raise ValueError(f"Student's t needs at least one degree of freedom, not {df}")
    angle = math.atan2(abs(t), math.sqrt(df))
    cosine2 = math.cos(angle) ** 2
    odd = df % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(1 + odd, df, 2):  # k = 2, 4, ... or 1, 3, ...: each term from the one before
        total += term
        term *= cosine2 * k / (k + 1)
    inside = math.sin(angle) * total
    return max(0.0, 1.0 - (2 / math.pi * (angle + inside) if odd else inside))


def t_quantile(confidence: float, df: int) -> float:
    """Return the t for which P(|T| < t) = `confidence`, 0 < confidence < 1, by bisection."""
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, {confidence} does not")
    low, high = 0.0, 1.0
    while t_two_sided(high, df) > 1 - confidence:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_two_sided(middle, df) > 1 - confidence else (low, middle)
    return high


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Mean:
    """Return the mean of independent numbers, such as one per seed, and its t interval.

    One number alone has an interval without ends. Raises ValueError for none.
    """
    if not values:
        raise ValueError("no values: nothing has a mean")
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Mean(mean, -math.inf, math.inf, 1)
    half = t_quantile(confidence, n - 1) * statistics.stdev(values) / math.sqrt(n)
    return Mean(mean, mean - half, mean + half, n)


def paired(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Paired:
    """Compare two arms on the same seeds, or two players on the same tasks, pair by pair.

    The difference is second minus first.

    Pairs that all differ by the same amount, not 0, have p = 0; a single pair has p = 1. Raises
    ValueError if the lengths differ or are 0.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values cannot be paired")
    differences = [after - before for before, after in zip(first, second, strict=True)]
    difference = mean_interval(differences, confidence)
    n = len(differences)
    if n == 1 or not any(differences):
        return Paired(difference, 1.0, sign_flip(differences))
    error = statistics.stdev(differences) / math.sqrt(n)
    p = t_two_sided(difference.mean / error, n - 1) if error else 0.0
    return Paired(difference, p, sign_flip(differences) if n <= MOST_FLIPPED else math.nan)


def sign_flip(differences: Sequence[float]) -> float:
    """Return the exact two-sided p of paired differences by flipping their signs.

    That is the share of sign patterns with as large a sum, or larger.

    Assumes only that each difference is as likely as its negative. Raises ValueError for more than
    `MOST_FLIPPED`.
    """
    if len(differences) > MOST_FLIPPED:
        raise ValueError(
            f"{len(differences)} pairs have too many sign patterns: at most {MOST_FLIPPED}"
        )
    observed = abs(math.fsum(differences)) * (
        1 - 1e-12
    )  # equal sums count, whatever their order of addition
    patterns = itertools.product(
        (1, -1), repeat=max(len(differences) - 1, 0)
    )  # the first sign is free by symmetry
    as_large = [
        abs(math.fsum(sign * d for sign, d in zip((1, *signs), differences, strict=False)))
        >= observed
        for signs in patterns
    ]
    return sum(as_large) / len(as_large)


def sign_test(wins: int, losses: int) -> float:
    """Return the exact two-sided p of wins against losses; ties are left out."""
    n, fewer = wins + losses, min(wins, losses)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / (1 << n))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Compare two players on the same tasks in the same order, by the exact McNemar test.

    It looks at the tasks that one of them alone won.

    Raises ValueError if the lengths differ.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} outcomes cannot be paired")
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    return McNemar(only_first, only_second, len(first), sign_test(only_first, only_second))


def holm(ps: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down method (Holm, 1979).

    They keep the order given.
    """
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = highest
    return adjusted
