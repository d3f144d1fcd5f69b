"""What is claimed of the two orders, the checks that come before any verdict, and the verdicts.

Every function takes the `Records` of one run. A comparison of two orders says nothing if the base could not learn the
target, if DPO had no pairs to learn from, or if the student was broken from the start: then each verdict is `invalid`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from alignkd_lab.errors import UnknownName
from alignkd_lab.pipelines import A_K, K_A, ORDERS, PIPELINES, WORLDS
from alignkd_lab.records import Records
from alignkd_lab.stats import (
    LEVEL,
    NAN,
    Interval,
    effect_size,
    holm_levels,
    paired_difference,
    paired_p_value,
    t_interval,
    variance_p_value,
    variance_ratio,
    wilson_interval,
)

LEARNED_RATIO = 3.0
LEAST_PAIRS = 30
NOT_DECIDED = "not decided"


@dataclass(frozen=True)
class Claim:
    """A sign written down before any run: A-K minus K-A, or the variance of A-K over that of K-A.

    `decided_in` names the worlds in which the claim takes part in the family of tests. A ratio of
    variances over few seeds says nothing, so in the language world it is shown and never decided.
    """

    metric: str
    statistic: str
    expected: str
    decided_in: tuple[str, ...] = WORLDS

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


class Check(NamedTuple):
    """Whether a run may be judged: the measured value, the bar that it is held against, and both in words."""

    name: str
    passed: bool
    value: float
    bar: float
    text: str


def checks(run: Records) -> list[Check]:
    """The checks of a run, in the order in which they count.

    What was not recorded cannot pass. Where no pipeline aligns the base (K-A alone) nothing is asked about the base's
    alignment: that of the run with A-K in it counts.
    """
    about, found = run.the_run(), []
    if any(stage.name == "base_aligned" for name in run.pipelines for stage in PIPELINES.get(name, ())):
        found.append(_target_learned(run))
        if about["algorithm"] == "dpo":
            found.append(_enough_pairs(run))
    if about["world"] == "lm":
        found.append(_student_healed(run))
    return found


def failed_check(run: Records) -> str | None:
    """The name of the first check that failed, or None."""
    return next((check.name for check in checks(run) if not check.passed), None)


def target_rate(run: Records, pipeline: str) -> Interval | None:
    """How often `pipeline` shows the target: by Wilson over pooled counts, else by t over seeds; None if unknown."""
    rows = run.metrics[run.metrics["pipeline"] == pipeline].pivot(index="seed", columns="metric", values="value")
    if {"responses", "target_responses"} <= set(rows):
        return wilson_interval(int(rows["target_responses"].sum()), int(rows["responses"].sum()))
    if "target_rate" not in rows or rows["target_rate"].isna().any():
        return None
    return t_interval(rows["target_rate"])


def _target_learned(run: Records) -> Check:
    name, rates = "target_learned", {pipeline: target_rate(run, pipeline) for pipeline in ("base", "base_aligned")}
    missing = [pipeline for pipeline, rate in rates.items() if rate is None]
    if missing:
        return Check(name, False, NAN, LEARNED_RATIO, f"not measured: no target rate of the pipeline {missing[0]}")
    base, aligned = rates.values()
    ratio = aligned.estimate / base.estimate if base.estimate else (math.inf if aligned.estimate else NAN)
    one_seed = math.isnan(base.low) or math.isnan(aligned.low)
    text = (
        f"the aligned base shows the target in {_percent(aligned)} of its outputs, "
        f"the base in {_percent(base)}; the bar is {LEARNED_RATIO:g} times as often"
        + (" (one seed: no intervals to keep apart)" if one_seed else ", with the intervals apart")
    )
    passed = ratio >= LEARNED_RATIO and (one_seed or aligned.low > base.high)
    return Check(name, bool(passed), ratio, LEARNED_RATIO, text)


def _enough_pairs(run: Records) -> Check:
    counts = pairs(run, "base_aligned").reindex(run.seeds)
    if counts.isna().any():
        text = "not measured: no count of the informative pairs at the base"
        return Check("informative_pairs", False, NAN, LEAST_PAIRS, text)
    least = int(counts.min())
    text = f"the base's samples gave {least} informative pairs (fewest over seeds); the bar is {LEAST_PAIRS}"
    return Check("informative_pairs", least >= LEAST_PAIRS, least, LEAST_PAIRS, text)


def pairs(run: Records, pipeline: str) -> pd.Series:
    """Informative pairs that the pipeline's last alignment from pairs had, by seed; empty where there was none."""
    stages = run.stages
    if "informative_pairs" not in stages:
        return pd.Series(dtype=float)
    held = stages[(stages["pipeline"] == pipeline) & stages["informative_pairs"].notna()]
    return held.sort_values("place").groupby("seed")["informative_pairs"].last()


def _student_healed(run: Records) -> Check:
    held = run.provenance.reindex(columns=["healing_gap", "healing_bar"])
    bar = held["healing_bar"].min()
    if held["healing_gap"].isna().any():
        return Check("healing", False, NAN, bar, "not measured: no healing gap of the student")
    gap = held["healing_gap"].max()
    text = f"the healed student's held-out recall lies {gap:.2f} nats per token below the base's; the bar is {bar:g}"
    return Check("healing", bool(gap <= bar), gap, bar, text)


def _percent(rate: Interval) -> str:
    estimate, low, high = (f"{100 * value:.1f}" for value in rate)
    return f"{estimate} %" if math.isnan(rate.low) else f"{estimate} % ({low} to {high})"


# Verdicts ---------------------------------------------------------------------------------------------


def verdict(low: float, high: float, expected: str, null: float = 0.0) -> str:
    """`holds` or `fails` only if the whole interval lies on that side of `null`; else `undecided`."""
    if expected not in ("up", "down"):
        raise UnknownName("expected sign", expected, ("up", "down"))
    above, below = low > null, high < null
    if not (above or below):
        return "undecided"
    return "holds" if above == (expected == "up") else "fails"


def decide(run: Records) -> pd.DataFrame:
    """Every claim with its estimate, interval and verdict, Holm-corrected over the claims of this run.

    Only seeds that both orders hold are compared. Columns: `metric`, `statistic`, `expected`, `estimate` (the mean
    difference or the ratio), `low`, `high`, `level` (of that interval), `effect_size` (of a mean difference, else NaN)
    and `verdict`: `holds`, `fails` or `undecided`; `not decided` where this world is not to decide it; `invalid` where
    a check failed.
    """
    world, values = run.the_run()["world"], [_paired(run, claim.metric) for claim in CLAIMS]
    decided = [index for index, claim in enumerate(CLAIMS) if world in claim.decided_in]
    tests = [variance_p_value if CLAIMS[i].statistic == "variance_ratio" else paired_p_value for i in decided]
    p_values = [test(*values[i]) for test, i in zip(tests, decided, strict=True)]
    levels = dict(zip(decided, holm_levels(p_values), strict=True))
    invalid, rows = failed_check(run) is not None, []
    for index, (claim, (a_k, k_a)) in enumerate(zip(CLAIMS, values, strict=True)):
        ratio, level = claim.statistic == "variance_ratio", levels.get(index, LEVEL)
        estimate, low, high = (variance_ratio if ratio else paired_difference)(a_k, k_a, level)
        found = verdict(low, high, claim.expected, claim.null) if index in levels else NOT_DECIDED
        rows.append(
            {
                "metric": claim.metric,
                "statistic": claim.statistic,
                "expected": claim.expected,
                "estimate": estimate,
                "low": low,
                "high": high,
                "level": level,
                "effect_size": NAN if ratio else effect_size(a_k, k_a),
                "verdict": "invalid" if invalid else found,
            }
        )
    return pd.DataFrame(rows)


def why_no_verdict(run: Records) -> str:
    """In words, where there are fewer than two seeds of both orders; empty where verdicts can be had."""
    if not set(ORDERS) <= set(run.pipelines) or not run.paired_seeds():
        return "not both orders: no verdict"
    return "one seed: no verdict" if len(run.paired_seeds()) == 1 else ""


def _paired(run: Records, metric: str) -> tuple[list[float], list[float]]:
    """A-K's and K-A's values in the seeds that hold both, an undefined one too: to drop it would be choosing."""
    rows = run.metrics[(run.metrics["metric"] == metric) & run.metrics["pipeline"].isin(ORDERS)]
    table = rows.pivot(index="seed", columns="pipeline", values="value").reindex(columns=list(ORDERS))
    table = table[rows.groupby("seed").size() == len(ORDERS)]
    return table[A_K].tolist(), table[K_A].tolist()
