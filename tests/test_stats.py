"""Intervals against scipy, and Holm against a naive step-down."""

import math

import numpy as np
import pytest
from scipy import stats

from alignkd_lab import stats as ours


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("seeds", [2, 3, 20])
def test_t_interval_is_scipys(seeds, level):
    data = np.random.default_rng(seeds).normal(3, 2, seeds)
    expected = stats.t.interval(level, seeds - 1, data.mean(), stats.sem(data))
    assert ours.t_interval(data, level) == pytest.approx((data.mean(), *expected))


def test_one_seed_has_a_mean_and_no_interval_and_a_value_that_is_not_finite_is_not_dropped():
    assert ours.t_interval([2.5]) == pytest.approx((2.5, math.nan, math.nan), nan_ok=True)
    assert all(math.isnan(number) for number in ours.t_interval([1.0, math.nan, 2.0]))
    assert math.isnan(ours.paired_p_value([1.0, math.inf, 2.0], [0.0, 0.0, 0.0]))


def test_an_interval_of_shares_stays_within_them_and_misses_a_rare_rate_less_often_than_a_plain_one():
    draw, missed = np.random.default_rng(0), {"plain": 0, "shares": 0}
    for _ in range(1000):
        values = draw.beta(0.4, 19.6, 10)  # mean 0.02
        plain, shares = ours.t_interval(values), ours.share_interval(values)
        assert plain.estimate == shares.estimate
        assert 0 < shares.low < shares.estimate < shares.high < 1
        for name, found in (("plain", plain), ("shares", shares)):
            missed[name] += not found.low <= 0.02 <= found.high
    assert missed["shares"] < 0.75 * missed["plain"]
    alike, mixed = ours.share_interval([0.0, 0.0, 0.0]), ours.share_interval([0.5 - 1e-4, 0.5 + 1e-4])
    assert alike == (0, 0, 0)
    assert mixed == pytest.approx(ours.t_interval([0.5 - 1e-4, 0.5 + 1e-4]), abs=1e-6)
    assert math.isnan(ours.share_interval([0.3]).low)


def test_paired_p_value_is_scipys_and_constant_differences_are_certain_and_equal_values_are_not():
    draw = np.random.default_rng(2)
    first, second = draw.normal(0.3, 1, 9), draw.normal(0, 1, 9)
    assert ours.paired_p_value(first, second) == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert ours.paired_p_value([1.0, 2.0], [0.0, 1.0]) == 0.0
    assert ours.paired_p_value([1.0, 2.0], [1.0, 2.0]) == 1.0
    assert ours.paired_difference([1.0, 2.0], [1.0, 2.0]) == (0.0, 0.0, 0.0)


def test_variance_interval_turns_the_f_distribution_around_and_is_undefined_over_no_variance_or_one_seed():
    draw = np.random.default_rng(3)
    first, second = draw.normal(0, 2, 12), draw.normal(0, 1, 12)
    ratio, low, high = ours.variance_ratio(first, second, 0.9)
    assert ratio == pytest.approx(first.var(ddof=1) / second.var(ddof=1))
    assert stats.f.sf(ratio / low, 11, 11) == pytest.approx(0.05)
    assert stats.f.cdf(ratio / high, 11, 11) == pytest.approx(0.05)
    assert math.isnan(ours.variance_ratio([1.0, 2.0], [3.0, 3.0]).estimate)
    assert math.isnan(ours.variance_ratio([1.0], [3.0]).low)
    assert math.isnan(ours.variance_p_value([1.0, 1.0], [3.0, 4.0]))


@pytest.mark.parametrize("shares", [0.01, 0.05, 0.3])
def test_variance_p_value_and_interval_agree(shares):
    draw = np.random.default_rng(5)
    for _ in range(50):
        first, second = draw.normal(0, 1.6, 10), draw.normal(0, 1, 10)
        _, low, high = ours.variance_ratio(first, second, 1 - shares)
        assert (ours.variance_p_value(first, second) < shares) == (low > 1 or high < 1)


def test_wilson_interval_is_scipys_and_refuses_what_is_no_proportion():
    for hits, total in ((0, 40), (1, 512), (20, 40), (39, 40), (40, 40)):
        expected = stats.binomtest(hits, total).proportion_ci(0.95, method="wilson")
        assert ours.wilson_interval(hits, total) == pytest.approx((hits / total, *expected), abs=1e-12)
    for hits, total in ((0, 0), (-1, 4), (5, 4)):
        with pytest.raises(ValueError, match=f"hits={hits} of total={total}"):
            ours.wilson_interval(hits, total)


def naive_holm(p_values, alpha):
    """Textbook step-down: walk up the sorted p-values and stop at the first that is too large."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = [False] * len(p_values)
    for rank, index in enumerate(order):
        if p_values[index] > alpha / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def test_holm_levels_reject_where_the_naive_step_down_does():
    draw = np.random.default_rng(6)
    for _ in range(300):
        p_values = list(draw.uniform(0, 1, 5) ** 4)
        levels = ours.holm_levels(p_values)
        assert [p < 1 - level for p, level in zip(p_values, levels, strict=True)] == naive_holm(p_values, 0.05)
    assert ours.holm_levels([0.001, math.nan])[0] == pytest.approx(0.975)  # what cannot be tested keeps its place


def test_an_effect_size_estimates_the_true_one_without_bias():
    draw = np.random.default_rng(5)
    found = [ours.effect_size(row, np.zeros(5)) for row in draw.normal(0.8, 1.0, (20_000, 5))]
    assert np.mean(found) == pytest.approx(0.8, abs=0.02)
    assert math.isnan(ours.effect_size([1.0, 2.0], [0.0, 0.0]))
    assert math.isnan(ours.effect_size([1.0, 2.0, 3.0], [0.0, 1.0, 2.0]))
    assert math.isnan(ours.effect_size([0.3, 0.4, 0.5], [0.1, 0.2, 0.3]))  # equal up to rounding
    assert math.isnan(ours.variance_ratio([1.0, 2.0, 3.0], [0.1 + 0.2, 0.3, 0.3]).estimate)


def test_the_interval_for_one_more_seed_holds_as_many_as_it_says():
    draws = np.random.default_rng(0).normal(3, 2, (4000, 6))
    spans = [ours.prediction_interval(row[:5].tolist(), 0.9) for row in draws]
    held = np.mean([span.low <= value <= span.high for span, value in zip(spans, draws[:, 5], strict=True)])
    assert held == pytest.approx(0.9, abs=0.02)
    t = stats.t.ppf(0.95, 1)
    assert ours.prediction_interval([1.0, 3.0], 0.9).high == pytest.approx(2 + t * math.sqrt(2) * math.sqrt(1.5))
    assert math.isnan(ours.prediction_interval([1.0], 0.9).low)
    assert math.isnan(ours.prediction_interval([1.0, math.nan], 0.9).low)


def test_all_places_are_held_against_zero_at_once_as_one_by_one():
    gaps = np.random.default_rng(0).normal(0.3, 1, (5, 4, 20))
    found = ours.excludes_zero(gaps)
    for place in np.ndindex(5, 4):
        span = ours.paired_difference(gaps[place], np.zeros(20))
        assert bool(found[place]) is (span.low > 0 or span.high < 0)
    assert 0 < found.sum() < found.size
