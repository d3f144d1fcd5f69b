"""Intervals over seeds, paired differences, and the corrections for several tests.

Nothing here knows a model or a file: numbers go in, intervals come out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alignkd_lab.errors import BadInput

ALPHA = 0.05
LEVEL = 1 - ALPHA

NAN = float("nan")


class Interval(NamedTuple):
    """An estimate with its confidence interval; `low` and `high` are NaN where one seed cannot tell."""

    estimate: float
    low: float
    high: float


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Student's t-interval of the mean over seeds; a NaN interval for a single seed.

    A value that is not finite makes the whole interval NaN: dropping a seed would be choosing.
    """
    return _around_mean(values, level, 0.0)


def share_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """`t_interval` of shares, on the scale of their mean's log-odds (delta method): it stays within 0 and 1."""
    mean, low, high = t_interval(values, level)
    if not (0 < mean < 1 and high > low):  # alike in all seeds, or undefined
        return Interval(mean, low, high)
    from scipy import special

    half = (high - mean) / (mean * (1 - mean))
    return Interval(mean, *(float(special.expit(special.logit(mean) + side)) for side in (-half, half)))


def paired_difference(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Interval:
    """t-interval of the mean of `first - second`, both [seeds] and in the same order of seeds."""
    return t_interval(np.asarray(first, dtype=float) - np.asarray(second, dtype=float), level)


def prediction_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Where one more seed is to be expected: mean ± t s √(1 + 1/n); NaN bounds for a single seed."""
    return _around_mean(values, level, 1.0)


def _around_mean(values: Sequence[float], level: float, own: float) -> Interval:
    """mean ± t s √(own + 1/n), where `own` is the share of one seed's own variance."""
    data = np.asarray(values, dtype=float)
    if data.size == 0 or not np.isfinite(data).all():
        return Interval(NAN, NAN, NAN)
    mean = float(data.mean())
    if data.size == 1:
        return Interval(mean, NAN, NAN)
    from scipy import stats

    half = float(stats.t.ppf((1 + level) / 2, data.size - 1) * data.std(ddof=1) * math.sqrt(own + 1 / data.size))
    return Interval(mean, mean - half, mean + half)


def excludes_zero(differences: np.ndarray) -> np.ndarray:
    """`[..., seeds]` -> `[...]`: whether `t_interval` over the seeds leaves out zero, for all places at once."""
    from scipy import stats

    seeds = differences.shape[-1]
    half = stats.t.ppf((1 + LEVEL) / 2, seeds - 1) * differences.std(-1, ddof=1) / math.sqrt(seeds)
    return np.abs(differences.mean(-1)) > half


def paired_p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p-value of the paired t-test; NaN with fewer than two seeds or a value that is not finite."""
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    if difference.size < 2 or not np.isfinite(difference).all():
        return NAN
    mean, error = difference.mean(), difference.std(ddof=1) / math.sqrt(difference.size)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    from scipy import stats

    return float(2 * stats.t.sf(abs(mean) / error, difference.size - 1))


def variance_ratio(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Interval:
    """Variance of `first` over variance of `second` with the F-interval; NaN where it is undefined.

    F assumes normal values and independent samples. Seeds are shared by the two orders, which makes the
    interval wider than need be and never narrower; outliers can make it too narrow.
    """
    ratio, degrees = _sample_variance_ratio(first, second)
    if not math.isfinite(ratio) or ratio == 0:
        return Interval(ratio, NAN, NAN)
    from scipy import stats

    low, high = (float(ratio / stats.f.ppf(point, *degrees)) for point in ((1 + level) / 2, (1 - level) / 2))
    return Interval(ratio, low, high)


def variance_p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided, equal-tailed p-value of the F-test that both variances are equal; NaN where undefined."""
    ratio, degrees = _sample_variance_ratio(first, second)
    if not math.isfinite(ratio) or ratio == 0:
        return NAN
    from scipy import stats

    return float(min(1.0, 2 * min(stats.f.cdf(ratio, *degrees), stats.f.sf(ratio, *degrees))))


def _sample_variance_ratio(first: Sequence[float], second: Sequence[float]) -> tuple[float, tuple[int, int]]:
    above, below = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    degrees = (above.size - 1, below.size - 1)
    if min(degrees) < 1 or not (np.isfinite(above).all() and np.isfinite(below).all()) or _equal(below, below):
        return NAN, degrees
    return float(above.var(ddof=1) / below.var(ddof=1)), degrees


def effect_size(first: Sequence[float], second: Sequence[float]) -> float:
    """Hedges' g of paired values: the mean of `first - second` in its standard deviations, corrected for few seeds.

    NaN with fewer than three seeds, a value that is not finite, or differences that are all equal.
    """
    both = np.asarray([first, second], dtype=float)
    data = both[0] - both[1]
    if data.size < 3 or not np.isfinite(data).all() or _equal(data, both):
        return NAN
    degrees = data.size - 1
    return float(data.mean() / data.std(ddof=1) * (1 - 3 / (4 * degrees - 1)))


def _equal(values: np.ndarray, made_of: np.ndarray) -> bool:
    """Whether they differ by no more than the rounding of what they were computed from."""
    return np.ptp(values) <= 1e-12 * np.abs(made_of).max()


def wilson_interval(hits: float, total: float, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a proportion: sound for rare targets, where the normal one is not.

    `hits` may be a sum of shares (a tie, a mean over several responses): the interval is too wide, never too narrow.
    `total` may be no whole number, where draws that depend on each other count as fewer.

    Raises BadInput unless 0 <= hits <= total and total > 0.
    """
    if not 0 <= hits <= total or total == 0:
        raise BadInput(f"hits={hits} of total={total} is no proportion: give 0 <= hits <= total, total > 0")
    from scipy import stats

    z = float(stats.norm.ppf((1 + level) / 2))
    rate = hits / total
    centre = (rate + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    return Interval(rate, max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half)))


def holm_levels(p_values: Sequence[float], alpha: float = ALPHA) -> list[float]:
    """The confidence level at which Holm's step-down decides each claim of a family.

    The smallest p-value is held against alpha / m, the next against alpha / (m - 1), and so on; the first
    one that is not rejected ends it, and every later claim stays at that step's share. An interval at
    1 - share excludes the null exactly where Holm rejects, so the interval shown and the verdict cannot
    disagree. The levels follow the decisions: together they are no simultaneous confidence region.
    A NaN p-value (a claim that could not be tested) counts as 1, so the family never shrinks.
    """
    known = [1.0 if math.isnan(p) else p for p in p_values]
    levels = [NAN] * len(known)
    stopped = None
    for rank, index in enumerate(sorted(range(len(known)), key=known.__getitem__)):
        share = alpha / (len(known) - rank) if stopped is None else stopped
        if known[index] > share:
            stopped = share
        levels[index] = 1 - share
    return levels
