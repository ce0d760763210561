"""Statistics of comparisons against closed forms, and numbers of scipy and statsmodels."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnrl.agents.statistics import (
    MOST_FLIPPED,
    holm,
    mcnemar,
    mean_interval,
    paired,
    sign_flip,
    sign_test,
    t_quantile,
    t_two_sided,
)

BEFORE, AFTER = [27, 21, 28, 29, 24], [56, 58, 25, 58, 52]


def test_t_is_the_closed_form_of_one_and_two_degrees_of_freedom() -> None:
    for t in (0.0, 0.3, 1.0, 2.5, 40.0):
        assert t_two_sided(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(t), abs=1e-14)
        assert t_two_sided(-t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-14)
    for confidence in (0.5, 0.9, 0.95, 0.999):
        cauchy = math.tan(math.pi * confidence / 2)
        assert t_quantile(confidence, 1) == pytest.approx(cauchy, rel=1e-9)
        second = confidence * math.sqrt(2 / (1 - confidence**2))
        assert t_quantile(confidence, 2) == pytest.approx(second, rel=1e-9)


def test_t_is_that_of_scipy() -> None:
    """2 * scipy.stats.t.sf(t, df) and scipy.stats.t.ppf(0.975, df)."""
    for t, df, p in [
        (1.5, 3, 0.23058386524482294),
        (3.7, 4, 0.020835429490449902),
        (0.3, 7, 0.7728900504021342),
        (2.5, 30, 0.01811564906806669),
        (1.96, 399, 0.0506914109850502),
    ]:
        assert t_two_sided(t, df) == pytest.approx(p, rel=1e-10)
    for df, quantile in [
        (3, 3.1824463052837078),
        (4, 2.7764451051977934),
        (9, 2.262157162798205),
        (399, 1.965927295920882),
    ]:
        assert t_quantile(0.95, df) == pytest.approx(quantile, rel=1e-10)


def test_t_of_many_degrees_of_freedom_is_the_normal_distribution() -> None:
    normal = statistics.NormalDist().inv_cdf(0.975)
    assert t_quantile(0.95, 100_000) == pytest.approx(normal, abs=1e-4)


def test_an_interval_over_seeds_is_wide_where_seeds_differ_and_never_ends_for_one() -> None:
    mean = mean_interval([0.2, 0.8, 0.5])
    half = 4.302652729749462 * 0.3 / math.sqrt(3)
    assert mean.mean == pytest.approx(0.5)
    assert mean.n == 3
    assert (mean.low, mean.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert mean_interval([0.4] * 5).low == mean_interval([0.4] * 5).high == pytest.approx(0.4)
    assert (mean_interval([0.4]).low, mean_interval([0.4]).high) == (-math.inf, math.inf)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_a_paired_comparison_is_that_of_scipy() -> None:
    """scipy.stats.ttest_rel(AFTER, BEFORE), and permutation_test of the differences' signs."""
    result = paired(BEFORE, AFTER)
    assert result.p == pytest.approx(0.025890698130567262, rel=1e-10)
    ends = (result.difference.low, result.difference.high)
    assert ends == pytest.approx((4.724191177828072, 43.275808822171925), rel=1e-10)
    assert result.p_flip == 0.125


def test_pairs_that_all_differ_alike_or_not_at_all() -> None:
    assert (paired([1, 2, 3], [1, 2, 3]).p, paired([1, 2, 3], [1, 2, 3]).p_flip) == (1, 1)
    assert (paired([1, 2, 3], [2, 3, 4]).p, paired([1, 2, 3], [2, 3, 4]).p_flip) == (0, 0.25)
    assert (paired([1], [2]).p, paired([1], [2]).p_flip) == (1, 1)
    assert math.isnan(paired(range(21), [k * k for k in range(21)]).p_flip)
    with pytest.raises(ValueError, match="cannot be paired"):
        paired([1, 2], [1])


def test_the_same_pairs_say_more_than_intervals_side_by_side() -> None:
    """Seeds differ by more than the arms do: the intervals overlap, and the difference is plain."""
    first, second = [10, 30, 50, 20, 40], [14, 33, 55, 24, 43]
    assert mean_interval(first).high > mean_interval(second).low
    assert paired(first, second).difference.low > 0
    assert paired(first, second).p < 0.001


@given(st.lists(st.integers(-30, 30), max_size=9))
def test_sign_flips_are_all_counted(differences: list[int]) -> None:
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    expected = sum(total >= abs(sum(differences)) for total in sums) / len(sums)
    assert sign_flip(differences) == pytest.approx(expected)
    assert sign_flip([d / 60 for d in differences]) == pytest.approx(expected)


def test_five_seeds_cannot_give_a_smaller_p_than_one_in_sixteen_by_sign_flips() -> None:
    assert sign_flip([3, 4, 5, 6, 7]) == 2 / 2**5
    with pytest.raises(ValueError, match=f"at most {MOST_FLIPPED}"):
        sign_flip([1.0] * (MOST_FLIPPED + 1))


def test_a_sign_test_is_a_fair_coin() -> None:
    assert sign_test(0, 0) == 1
    assert sign_test(0, 5) == sign_test(5, 0) == 2 / 32
    assert sign_test(3, 14) == pytest.approx(2 * sum(math.comb(17, k) for k in range(4)) / 2**17)
    assert sign_test(3, 14) == pytest.approx(0.012725830078125)  # scipy.stats.binomtest(3, 17)
    assert sign_test(10, 10) == 1


def test_two_players_on_the_same_tasks_are_compared_by_the_tasks_that_one_alone_won() -> None:
    first = [True] * 50 + [False] * 14 + [True] * 3 + [False] * 33
    second = [True] * 50 + [True] * 14 + [False] * 3 + [False] * 33
    result = mcnemar(first, second)
    assert (result.only_first, result.only_second, result.n) == (3, 14, 100)
    assert result.p == pytest.approx(0.012725830078125)
    assert mcnemar([True, False], [True, False]).p == 1
    with pytest.raises(ValueError, match="cannot be paired"):
        mcnemar([True], [])


def test_holm_corrects_for_the_number_of_comparisons() -> None:
    """statsmodels.stats.multitest.multipletests(..., method='holm')."""
    assert holm([0.01, 0.04, 0.03, 0.005, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.5])
    assert holm([0.04]) == [0.04]
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(ps: list[float]) -> None:
    adjusted = holm(ps)
    assert all(p <= q <= min(1, len(ps) * p) + 1e-15 for p, q in zip(ps, adjusted, strict=True))
    ranks = sorted(range(len(ps)), key=lambda i: ps[i])
    assert [adjusted[i] for i in ranks] == sorted(adjusted)
