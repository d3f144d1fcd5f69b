"""The claims that were written down beforehand, and their verdicts.

What a metric measures is said where it is measured (`mog` and `lm`); what the literature claims about it is `CLAIMS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alignkd_lab.errors import UnknownName
from alignkd_lab.pipelines import A_K, K_A
from alignkd_lab.stats import (
    LEVEL,
    NAN,
    effect_size,
    holm_levels,
    paired_difference,
    paired_p_value,
    variance_p_value,
    variance_ratio,
)


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
