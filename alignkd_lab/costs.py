"""What a pipeline costs, and what it gains for it: each stage that it needs is charged in full, shared or not."""

from __future__ import annotations

import dataclasses

import pandas as pd

from alignkd_lab.errors import BadInput
from alignkd_lab.pipelines import reading_order
from alignkd_lab.records import Records
from alignkd_lab.results import KINDS

# Names that `with_costs` adds to the metrics.
COSTS = (*(f"tokens_{kind}" for kind in KINDS), "minutes", "memory_gib")
GAINS = ("gain_per_10000_tokens", "gain_per_hour")


def costs(run: Records) -> pd.DataFrame:
    """`COSTS` of one run by pipeline and seed, NaN where nothing was recorded; its seeds share a batch's seconds."""
    stages = run.stages
    batch = stages["seeds_in_batch"].fillna(1) if "seeds_in_batch" in stages else 1
    table = stages.assign(minutes=stages["seconds"] / batch / 60, memory_gib=stages["peak_memory_bytes"] / 2**30)
    table = table.astype(dict.fromkeys(KINDS, float)).rename(columns={kind: f"tokens_{kind}" for kind in KINDS})
    groups = table.groupby(["pipeline", "seed"])
    return groups[list(COSTS[:-1])].sum(min_count=1).join(groups["memory_gib"].max())


def typical_costs(run: Records) -> pd.DataFrame:
    """Over the seeds, by pipeline: the median of the minutes, the mean of the tokens, the highest peak of memory.

    Other work on the machine makes single seeds slower, so a mean over seeds would be its measure.
    """
    how = {**{f"tokens_{kind}": "mean" for kind in KINDS}, "minutes": "median", "memory_gib": "max"}
    found = costs(run).groupby("pipeline").agg(how)
    return found.loc[reading_order(found.index)]


def with_costs(run: Records, baseline: str = "kd_only") -> Records:
    """One run with `COSTS` and `GAINS` among the metrics of every pipeline that has a stage.

    A gain is the reward above that of `baseline` in the same seed, for 10,000 trained tokens of that seed, or for an
    hour of the pipeline's typical cost. The baseline itself has none.

    Raises:
        BadInput: the run lacks the baseline.
    """
    rewards, wide = run.table("reward"), costs(run)
    if baseline not in rewards:
        raise BadInput(f"baseline: gains are counted from {baseline!r}, and the run has {', '.join(run.pipelines)}")
    above = pd.Series([rewards.at[seed, name] - rewards.at[seed, baseline] for name, seed in wide.index], wide.index)
    minutes = wide.index.get_level_values("pipeline").map(typical_costs(run)["minutes"])
    wide["gain_per_10000_tokens"], wide["gain_per_hour"] = 1e4 * above / wide["tokens_trained"], 60 * above / minutes
    rows = wide.stack().rename("value").rename_axis(["pipeline", "seed", "metric"]).reset_index()
    rows = rows[~(rows["metric"].isin(GAINS) & (rows["pipeline"] == baseline))]
    head = run.metrics.drop(columns=["metric", "value"]).drop_duplicates(["pipeline", "seed"])
    added = head.merge(rows, on=["pipeline", "seed"])
    return dataclasses.replace(run, metrics=pd.concat([run.metrics, added], ignore_index=True))
