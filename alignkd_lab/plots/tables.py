"""Tables for a page: what a run found, as data frames of numbers that are written for readers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from alignkd_lab import claims
from alignkd_lab.pipelines import A_K, K_A
from alignkd_lab.plots.style import CLAIM_WORDS, interval, metric_label, number, over_seeds, pipeline_style, shown
from alignkd_lab.plots.verdicts import statistic
from alignkd_lab.records import Records
from alignkd_lab.stats import Interval, share_interval, t_interval


def mean(run: Records, pipeline: str, metric: str = "reward") -> Interval:
    """Over the seeds of one run that hold the pipeline, with its 95 % t-interval."""
    rows = run.metrics[(run.metrics["pipeline"] == pipeline) & (run.metrics["metric"] == metric)]
    return over_seeds(metric, rows["value"])


def difference(first: Records, second: Records | None = None, metric: str = "reward",
               pipelines: tuple[str, str] = (A_K, K_A)) -> Interval:  # fmt: skip
    """`pipelines[0]` of the first run minus `pipelines[1]` of the second (or the same), paired by seed."""
    return t_interval(differences(first, second or first, metric, pipelines))


def differences(first: Records, second: Records, metric: str, pipelines: tuple[str, str] = (A_K, K_A)) -> np.ndarray:
    """The same by seed, of the seeds that both hold."""
    return (first.table(metric)[pipelines[0]] - second.table(metric)[pipelines[1]]).dropna().to_numpy()


def means(run: Records, metrics: Sequence[str], pipelines: Iterable[str] | None = None) -> pd.DataFrame:
    """Mean and interval of each metric, a row a pipeline; `–` where a run does not hold it."""
    world, rows = run.the_run()["world"], {}
    for name in pipelines or run.pipelines:
        found = [mean(run, name, metric) for metric in metrics]
        cells = [interval(*(shown(metric, v) for v in each)) for metric, each in zip(metrics, found, strict=True)]
        rows[pipeline_style(name).label] = cells
    return pd.DataFrame.from_dict(rows, orient="index", columns=[metric_label(metric, world) for metric in metrics])


def claims_table(run: Records) -> pd.DataFrame:
    """One row a claim: what was measured, the expected sign, the difference with its interval, and the verdict."""
    world, rows = run.the_run()["world"], {}
    for (_, row), written in zip(claims.decide(run).iterrows(), claims.CLAIMS, strict=True):
        rows[CLAIM_WORDS[row["metric"], row["statistic"]]] = {
            "statistic": statistic(row, world),
            "expected": f"{'above' if row.expected == 'up' else 'below'} {written.null:g}",
            "difference": number(row.estimate),
            "interval": span(row.low, row.high),
            "level": f"{100 * row.level:.4g} %" if span(row.low, row.high) else "",
            "verdict": row.verdict,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def alignments(run: Records, pipelines: Sequence[str]) -> pd.DataFrame:
    """What each alignment on pairs had to learn from, how far it went and what it earned, a column a pipeline.

    A-K's alignment is that of `base_aligned`. A policy that had no pair stayed at its reference.
    """
    columns = {}
    for name in pipelines:
        stages = run.stages[(run.stages["pipeline"] == name) & run.stages["informative_pairs"].notna()]
        stages = stages.sort_values("place").groupby("seed").last()
        if stages.empty:
            continue
        rates = stages["target_responses"] / stages["responses"]
        curves = run.curves[(run.curves["pipeline"] == name) & (run.curves["stage"] == stages["stage"].iloc[0])]
        ends = curves.sort_values("step").groupby(["curve", "seed"])["value"].agg(["first", "last"])

        def end(curve: str, which: str, default: pd.Series, ends: pd.DataFrame = ends) -> pd.Series:
            held = ends[which].get(curve, pd.Series(dtype=float)) if len(ends) else pd.Series(dtype=float)
            return held.reindex(default.index).fillna(default)

        columns[pipeline_style(name).label] = {
            "target among samples (%)": _percent(rates),
            "informative pairs": interval(*t_interval(stages["informative_pairs"])),
            "KL from its reference before": interval(*t_interval(end("kl", "first", 0 * rates))),
            "KL after": interval(*t_interval(end("kl", "last", 0 * rates))),
            "target rate after (validation, %)": _percent(end("target_rate", "last", rates)),
            "reward (test)": interval(*mean(run, name)),
        }
    return pd.DataFrame(columns)


def _percent(shares: pd.Series) -> str:
    return interval(*(100 * value for value in share_interval(shares)))


def span(low: float, high: float) -> str:
    """`0.1 to 0.3`, or nothing where there is no interval."""
    texts = number(low), number(high)
    return "" if "–" in texts else f"{texts[0]} to {texts[1]}"
