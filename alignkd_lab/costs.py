"""What a pipeline costs, and what it gains for that: every stage that it needs is charged to it in full, shared or not.

As further metrics of a run, so that whatever reads metrics (`drawing.estimates`, `runs.seed_values`) reads costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean, median
from typing import NamedTuple

from alignkd_lab.errors import BadInput

TOKENS = ("sampled", "trained", "scored")
# Names that `with_costs` adds to a pipeline's metrics.
COSTS = (*(f"tokens_{kind}" for kind in TOKENS), "minutes", "memory_gib")
GAINS = {"gain_per_10000_tokens": "tokens_trained", "gain_per_hour": "minutes"}
_TIMES = {"gain_per_10000_tokens": 10_000, "gain_per_hour": 60}


class Cost(NamedTuple):
    """Of a pipeline in one seed, or of a typical seed."""

    seconds: float
    tokens: dict[str, float]  # by kind of `TOKENS`; draws in the Gaussian world
    memory: int  # bytes at the peak

    def numbers(self) -> dict[str, float]:
        """By the names of `COSTS`."""
        tokens = {f"tokens_{kind}": count for kind, count in self.tokens.items()}
        return {**tokens, "minutes": self.seconds / 60, "memory_gib": self.memory / 2**30}


def stages_of(record: dict, pipeline: str) -> list[dict]:
    """The stages that a pipeline needs, in their order."""
    return [record["stages"][key] for key in record["pipelines"][pipeline].get("stages", [])]


def seeds_in_batch(stage: dict) -> int:
    """How many seeds the stage's seconds cover: the Gaussian world runs a batch of them at once."""
    return stage.get("info", {}).get("seeds_in_batch") or 1


def cost(record: dict, pipeline: str) -> Cost:
    """What the pipeline cost in the record's seed."""
    stages = stages_of(record, pipeline)
    return Cost(
        seconds=sum(stage["seconds"] / seeds_in_batch(stage) for stage in stages),
        tokens={kind: sum((stage.get("tokens") or {}).get(kind, 0) for stage in stages) for kind in TOKENS},
        memory=max((stage.get("peak_memory_bytes") or 0 for stage in stages), default=0),
    )


def typical_cost(run: dict, pipeline: str) -> Cost:
    """Over the seeds: the median of the seconds, the mean of the tokens, the highest peak.

    Other work on the machine makes single seeds slower, so a mean over seeds would be its measure.
    """
    held = [cost(record, pipeline) for record in run["records"] if pipeline in record["pipelines"]]
    return Cost(
        seconds=median(found.seconds for found in held),
        tokens={kind: mean(found.tokens[kind] for found in held) for kind in TOKENS},
        memory=max(found.memory for found in held),
    )


def with_costs(run: dict, baseline: str = "kd_only") -> dict:
    """The run with `COSTS` and `GAINS` among the metrics of every pipeline that has a stage.

    A gain is the reward above that of `baseline` in the same seed, for 10,000 trained tokens of that seed, or for an
    hour of the pipeline's typical cost. The baseline itself has none.

    Raises:
        BadInput: a seed that lacks the baseline, so that there is nothing to gain over.
    """
    lacking = [record["seed"] for record in run["records"] if baseline not in record["pipelines"]]
    if lacking:
        raise BadInput(f"seed {lacking[0]} lacks the pipeline {baseline!r}, which gains are counted from: run it, too")
    names = {name for record in run["records"] for name in record["pipelines"] if stages_of(record, name)}
    typical = {name: typical_cost(run, name) for name in names}

    def entry(record: dict, name: str) -> dict:
        held = record["pipelines"][name]
        if name not in names:
            return held
        numbers, gains = cost(record, name).numbers(), {}
        for gain, of in GAINS.items() if name != baseline else ():
            above = held["metrics"]["reward"] - record["pipelines"][baseline]["metrics"]["reward"]
            spent = typical[name].numbers()[of] if of == "minutes" else numbers[of]
            gains[gain] = _TIMES[gain] * above / spent
        return {**held, "metrics": {**held["metrics"], **numbers, **gains}}

    records = []
    for record in run["records"]:
        records.append({**record, "pipelines": {name: entry(record, name) for name in record["pipelines"]}})
    return {**run, "records": records}


def compared(runs: Sequence[dict], names: Sequence[str]) -> dict:
    """Of the runs the one that compares more than half of the pipelines `names` over most seeds, then most of them.

    It is returned with the seeds and the pipelines of that comparison alone, so every seed holds every pipeline. One
    that was run with fewer seeds than the others is left out where more seeds for the others can be had.

    Raises:
        BadInput: no run holds two of them in one seed.
    """
    best, pipelines, records = max(
        ((run, *cut) for run in runs for cut in _comparisons(run, names)),
        key=lambda found: (len(found[1]) > len(names) / 2, len(found[2]), len(found[1])),
        default=(None, [], []),
    )
    if len(pipelines) < 2:
        raise BadInput(
            f"no run holds two of {', '.join(names)} in one seed; make one with "
            "`alignkd run --world lm --pipelines orders,methods`"
        )
    kept = [{**record, "pipelines": {name: record["pipelines"][name] for name in pipelines}} for record in records]
    return {**best, "records": kept}


def _comparisons(run: dict, names: Sequence[str]) -> Iterator[tuple[list[str], list[dict]]]:
    """For each number of seeds the pipelines run with at least as many, and the seeds that hold them all."""
    seeds = {name: sum(name in record["pipelines"] for record in run["records"]) for name in names}
    for least in sorted({count for count in seeds.values() if count}):
        pipelines = [name for name in names if seeds[name] >= least]
        records = [record for record in run["records"] if set(pipelines) <= set(record["pipelines"])]
        if records:
            yield pipelines, records
