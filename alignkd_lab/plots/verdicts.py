"""What became of the claims of a run, a line a verdict."""

from __future__ import annotations

import pandas as pd

from alignkd_lab.claims import NOT_DECIDED, decide, failed_check, why_no_verdict
from alignkd_lab.pipelines import ORDERS
from alignkd_lab.plots.drawing import estimates
from alignkd_lab.plots.style import CHECK_WORDS, MINUS, SYMBOLS, interval, metric_label
from alignkd_lab.records import Records


def statistic(row: pd.Series, world: str) -> str:
    """What was measured for a claim, e.g. `reward, A-K − K-A`; `row` is one of `claims.decide`."""
    if row["statistic"] == "variance_ratio":
        return f"variance of {metric_label(row['metric'], world)}, A-K over K-A"
    return f"{metric_label(row['metric'], world)}, A-K {MINUS} K-A"


def in_short(run: Records) -> str:
    """The reward of both orders, and how many claims hold; or why nothing is decided."""
    found = estimates(run, "reward")
    if not set(ORDERS) <= set(found):
        return "This run does not hold both orders, so there is nothing to compare."
    k_a, a_k = (interval(*found[order][0]) for order in ORDERS)
    said = f"Reward is {k_a} for K-A and {a_k} for A-K."
    if failed := failed_check(run):
        return f"{said} No verdict is valid: the check “{CHECK_WORDS[failed]}” failed."
    if why := why_no_verdict(run):
        return f"{said} {why.capitalize()}."
    verdicts = [verdict for verdict in decide(run)["verdict"] if verdict != NOT_DECIDED]
    counts = [f"{name} {verdicts.count(name)}" for name in SYMBOLS if name in verdicts]
    return f"{said} Of {len(verdicts)} claims: {', '.join(counts)}."
