"""Statistics of a run: intervals over seeds, the claims written down beforehand, and their verdicts.

Nothing here knows a model or a file: numbers go in, intervals and verdicts come out. What a metric
measures is said where it is measured (`mog` and `lm`); what the literature claims about it is `CLAIMS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from alignkd_lab.errors import BadInput, UnknownName

ALPHA = 0.05
LEVEL = 1 - ALPHA

NAN = float("nan")


class Interval(NamedTuple):
    """An estimate with its confidence interval; `low` and `high` are NaN where one seed cannot tell."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Claim:
    """A sign written down before any run: A-K minus K-A, or the variance of A-K over that of K-A.

    `decided_in` names the worlds in which the claim takes part in the family of tests. A ratio of
    variances over few seeds says nothing, so in the language world it is shown and never decided.
    """

    metric: str
    statistic: str
    expected: str
    decided_in: tuple[str, ...] = ("mog", "lm")

    @property
    def null(self) -> float:
        """The value of the statistic if the order made no difference."""
        return 1.0 if self.statistic == "variance_ratio" else 0.0


# Order (Cha and Cho 2025), as far as its abstract and public reviews give it. Overall precision is claimed
# there for language models only; on the Gaussians the same sign is tested, and whatever comes is reported.
CLAIMS = (
    Claim("reward", "mean_difference", "up"),
    Claim("target_precision", "mean_difference", "up"),
    Claim("overall_precision", "mean_difference", "up"),
    Claim("overall_recall", "mean_difference", "down"),
    Claim("reward", "variance_ratio", "down", decided_in=("mog",)),
)

K_A, A_K = "kd_then_align", "align_then_kd"


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Student's t-interval of the mean over seeds; a NaN interval for a single seed.

    A value that is not finite makes the whole interval NaN: dropping a seed would be choosing.
    """
    data = np.asarray(values, dtype=float)
    if data.size == 0 or not np.isfinite(data).all():
        return Interval(NAN, NAN, NAN)
    mean = float(data.mean())
    if data.size == 1:
        return Interval(mean, NAN, NAN)
    from scipy import stats

    half = float(stats.t.ppf((1 + level) / 2, data.size - 1) * data.std(ddof=1) / math.sqrt(data.size))
    return Interval(mean, mean - half, mean + half)


def paired_difference(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Interval:
    """t-interval of the mean of `first - second`, both [seeds] and in the same order of seeds."""
    return t_interval(np.asarray(first, dtype=float) - np.asarray(second, dtype=float), level)


def decided(differences: np.ndarray) -> np.ndarray:
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
    if min(degrees) < 1 or not (np.isfinite(above).all() and np.isfinite(below).all()) or np.ptp(below) == 0:
        return NAN, degrees
    return float(above.var(ddof=1) / below.var(ddof=1)), degrees


def rank_correlation(groups: Sequence[tuple[Sequence[float], Sequence[float]]], level: float = LEVEL) -> Interval:
    """Spearman's rank correlation of `(first, second)` within groups, averaged over them on Fisher's scale.

    Each group is weighted by its size less 3; the interval is that of Bonett and Wright (2000). Groups of fewer than
    four, and those in which one of the two is all equal, tell nothing and are left out. NaN where none is left, or
    where a value is not finite; no interval where a group's order is perfect.
    """
    data = [(np.asarray(first, dtype=float), np.asarray(second, dtype=float)) for first, second in groups]
    if not all(np.isfinite(x).all() and np.isfinite(y).all() for x, y in data):
        return Interval(NAN, NAN, NAN)
    data = [(x, y) for x, y in data if x.size > 3 and np.ptp(x) and np.ptp(y)]
    if not data:
        return Interval(NAN, NAN, NAN)
    from scipy import stats

    rhos = np.array([stats.spearmanr(x, y).statistic for x, y in data])
    weights = np.array([x.size - 3.0 for x, _ in data])
    if np.isclose(np.abs(rhos), 1).any():
        return Interval(float(np.average(rhos, weights=weights)), NAN, NAN)
    centre = np.average(np.arctanh(rhos), weights=weights)
    half = stats.norm.ppf((1 + level) / 2) * math.sqrt((weights * (1 + rhos**2 / 2)).sum()) / weights.sum()
    return Interval(*(float(np.tanh(centre + side * half)) for side in (0, -1, 1)))


def effect_size(first: Sequence[float], second: Sequence[float]) -> float:
    """Hedges' g of paired values: the mean of `first - second` in its standard deviations, corrected for few seeds.

    NaN with fewer than three seeds, a value that is not finite, or differences that are all equal.
    """
    data = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    if data.size < 3 or not np.isfinite(data).all() or np.ptp(data) == 0:
        return NAN
    degrees = data.size - 1
    return float(data.mean() / data.std(ddof=1) * (1 - 3 / (4 * degrees - 1)))


def wilson_interval(hits: int, total: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a proportion: sound for rare targets, where the normal one is not.

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


def verdict(low: float, high: float, expected: str, null: float = 0.0) -> str:
    """`holds` or `fails` only if the whole interval lies on that side of `null`; else `undecided`."""
    if expected not in ("up", "down"):
        raise UnknownName("expected sign", expected, ("up", "down"))
    above, below = low > null, high < null
    if not (above or below):
        return "undecided"
    return "holds" if above == (expected == "up") else "fails"


NOT_DECIDED = "not decided"


def decide_claims(values: Mapping[str, Mapping[str, Mapping[int, float]]], world: str) -> list[dict]:
    """Every claim with its estimate, interval and verdict, Holm-corrected over the claims of this run.

    `values` is `{pipeline: {metric: {seed: value}}}`; only seeds that both orders hold are compared.
    Returns dicts with `metric`, `statistic`, `expected`, `difference` (the mean difference or the ratio),
    `low`, `high`, `level` (of that interval), `effect_size` (of a mean difference, else NaN) and `verdict`, which for
    a claim that this world is not to decide is `not decided`, whatever its interval.
    """
    pairs = [_paired_seeds(values, claim.metric) for claim in CLAIMS]
    decided = [index for index, claim in enumerate(CLAIMS) if world in claim.decided_in]
    levels = dict(zip(decided, holm_levels([_p_value(CLAIMS[i], *pairs[i]) for i in decided]), strict=True))
    rows = []
    for index, (claim, (a_k, k_a)) in enumerate(zip(CLAIMS, pairs, strict=True)):
        level = levels.get(index, LEVEL)
        interval = variance_ratio if claim.statistic == "variance_ratio" else paired_difference
        estimate, low, high = interval(a_k, k_a, level)
        rows.append(
            {
                "metric": claim.metric,
                "statistic": claim.statistic,
                "expected": claim.expected,
                "difference": estimate,
                "low": low,
                "high": high,
                "level": level,
                "effect_size": effect_size(a_k, k_a) if claim.statistic == "mean_difference" else NAN,
                "verdict": verdict(low, high, claim.expected, claim.null) if index in levels else NOT_DECIDED,
            }
        )
    return rows


def _paired_seeds(values: Mapping, metric: str) -> tuple[list[float], list[float]]:
    a_k, k_a = (values.get(name, {}).get(metric, {}) for name in (A_K, K_A))
    seeds = sorted(set(a_k) & set(k_a))
    return [a_k[seed] for seed in seeds], [k_a[seed] for seed in seeds]


def _p_value(claim: Claim, a_k: list[float], k_a: list[float]) -> float:
    test = variance_p_value if claim.statistic == "variance_ratio" else paired_p_value
    return test(a_k, k_a)
