"""Checks that come before any verdict: did alignment work at all, and was the student healthy?

A comparison of two orders says nothing if the base could not learn the target, if DPO had no pairs to
learn from, or if the student was broken from the start. Then every verdict of the run is `invalid`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from alignkd_lab.pipelines import PIPELINES
from alignkd_lab.stats import NAN, Interval, t_interval, wilson_interval

LEARNED_RATIO = 3.0
LEAST_PAIRS = 30
HEALING_BAR = 1.0


def run_checks(run: dict) -> dict[str, dict]:
    """The checks of a run: `{name: {"passed", "value", "bar", "text"}}`, in the order in which they count.

    `run` is one group of `runs.group_runs`. What a record does not hold cannot pass. Where no pipeline aligns the base
    (K-A alone) nothing is asked about the base's alignment: that of the run with A-K in it counts.
    """
    records, checks = run["records"], {}
    if any(_aligns_base(name) for record in records for name in record["pipelines"]):
        checks["target_learned"] = _target_learned(records)
        if run["algorithm"] == "dpo":
            checks["informative_pairs"] = _informative_pairs(records)
    if run["world"] == "lm":
        checks["healing"] = _healing(records)
    return checks


def _aligns_base(pipeline: str) -> bool:
    return any(stage.name == "base_aligned" for stage in PIPELINES.get(pipeline, ()))


def failed_check(checks: dict[str, dict]) -> str | None:
    """The name of the first check that failed, or None."""
    return next((name for name, check in checks.items() if not check["passed"]), None)


def target_rate(records: Sequence[dict], pipeline: str) -> Interval | None:
    """How often `pipeline` shows the target: by Wilson over pooled counts, else by t over seeds."""
    held = [record["pipelines"][pipeline] for record in records if pipeline in record["pipelines"]]
    if held and all("counts" in entry for entry in held):
        counts = [entry["counts"] for entry in held]
        return wilson_interval(sum(c["target"] for c in counts), sum(c["responses"] for c in counts))
    rates = [entry["metrics"].get("target_rate") for entry in held]
    if not rates or None in rates:
        return None
    return t_interval(rates)


def _target_learned(records: Sequence[dict]) -> dict:
    base, aligned = (target_rate(records, name) for name in ("base", "base_aligned"))
    if base is None or aligned is None:
        missing = "base" if base is None else "base_aligned"
        return _check(False, NAN, LEARNED_RATIO, f"not measured: no target rate of the pipeline {missing}")
    ratio = aligned.estimate / base.estimate if base.estimate else (math.inf if aligned.estimate else NAN)
    one_seed = math.isnan(base.low) or math.isnan(aligned.low)
    apart = one_seed or aligned.low > base.high
    text = (
        f"the aligned base shows the target in {_percent(aligned)} of its outputs, "
        f"the base in {_percent(base)}; the bar is {LEARNED_RATIO:g} times as often"
        + (" (one seed: no intervals to keep apart)" if one_seed else ", with the intervals apart")
    )
    return _check(ratio >= LEARNED_RATIO and apart, ratio, LEARNED_RATIO, text)


def _informative_pairs(records: Sequence[dict]) -> dict:
    counts, bar = (
        [_stage_info(record, "base_aligned").get("informative_pairs") for record in records],
        LEAST_PAIRS,
    )
    if None in counts:
        return _check(False, NAN, bar, "not measured: no count of the informative pairs at the base")
    text = f"the base's samples gave {min(counts)} informative pairs (fewest over seeds); the bar is {bar}"
    return _check(min(counts) >= bar, min(counts), bar, text)


def _stage_info(record: dict, pipeline: str) -> dict:
    stages = record["pipelines"].get(pipeline, {}).get("stages", [])
    return record["stages"][stages[-1]].get("info", {}) if stages else {}


def _healing(records: Sequence[dict]) -> dict:
    held = [record.get("checks", {}) for record in records]
    gaps = [checks.get("healing_gap") for checks in held]
    bar = min(checks.get("healing_bar", HEALING_BAR) for checks in held)
    if None in gaps:
        return _check(False, NAN, bar, "not measured: no healing gap of the student")
    text = f"the healed student's held-out recall lies {max(gaps):.2f} nats per token below the base's; "
    return _check(max(gaps) <= bar, max(gaps), bar, f"{text}the bar is {bar:g}")


def _percent(rate: Interval) -> str:
    estimate, low, high = (f"{100 * value:.1f}" for value in rate)
    return f"{estimate} %" if math.isnan(rate.low) else f"{estimate} % ({low} to {high})"


def _check(passed: bool, value: float, bar: float, text: str) -> dict:
    return {"passed": bool(passed), "value": value, "bar": bar, "text": text}
