"""Runs: records that differ in nothing but their seed, what they hold by seed, and what they found."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alignkd_lab.checks import failed_check, run_checks
from alignkd_lab.claims import decide_claims
from alignkd_lab.pipelines import A_K, K_A, ORDERS, YARDSTICKS
from alignkd_lab.records import ALGORITHMS, WORLDS, created, device_of
from alignkd_lab.stats import t_interval
from alignkd_lab.study import plan

if TYPE_CHECKING:
    import pandas as pd

RUN_KEY = ("world", "preset", "device", "algorithm", "target", "settings")
_BESIDE = (*YARDSTICKS, *ORDERS)  # compared with one another within a seed


def group_runs(records: Iterable[dict]) -> list[dict]:
    """Runs: dicts with the fields of `RUN_KEY` and `records`, one a seed, in the order of the seeds.

    Records that differ in any of `RUN_KEY` are never pooled. Where a seed was run more than once the
    newest record wins, pipeline by pipeline: an older one only fills in the pipelines that it lacks. But both orders
    and the yardsticks beside them stay together until both are run again: on another processor rounding makes them
    other draws. `earlier` then holds the provenance of the older records, newest last.
    """
    runs: list[dict] = []
    for record in sorted(records, key=created):
        key = {name: _field(record, name) for name in RUN_KEY}
        run = next((run for run in runs if all(run[name] == key[name] for name in RUN_KEY)), None)
        if run is None:
            run = {**key, "records": {}}
            runs.append(run)
        older = run["records"].get(record["seed"])
        run["records"][record["seed"]] = _merged(older, record) if older else record
    for run in runs:
        run["records"] = [run["records"][seed] for seed in sorted(run["records"])]
    return sorted(runs, key=_reading_order)


def apart(runs: Iterable[dict]) -> list[dict]:
    """The runs, with seeds that the plan registered apart, under the same settings, as runs of their own."""
    found = []
    for run in runs:
        sets = dict.fromkeys(frozenset(cell.seeds) for cell in _cells_of_orders(run))
        parts = [[record for record in run["records"] if record["seed"] in seeds] for seeds in sets]
        others = [record for record in run["records"] if not any(record["seed"] in seeds for seeds in sets)]
        found += [{**run, "records": part} for part in (*parts, others) if part]
    return found


def _cells_of_orders(run: dict) -> list[plan.Cell]:
    """The registered cells of both orders that the run's settings and seeds are those of."""
    return [cell for cell in plan.cells_of(run) if set(ORDERS) <= set(cell.pipelines)]


def _merged(older: dict, newer: dict) -> dict:
    kept = _BESIDE if {K_A, A_K} <= set(older["pipelines"]) and not {K_A, A_K} <= set(newer["pipelines"]) else ()
    # A stage's key names no machine: one that was run again elsewhere stands beside the older one, each for its own.
    anew = {
        key: f"{key}, of {newer['provenance']['created']}"
        for key, stage in newer["stages"].items()
        if older["stages"].get(key, stage) != stage
    }
    pipelines = {
        name: {**entry, "stages": [anew.get(key, key) for key in entry.get("stages", [])]}
        for name, entry in newer["pipelines"].items()
        if name not in kept or name not in older["pipelines"]
    }
    checks = (record.get("checks") for record in ((older, newer) if kept else (newer, older)))
    return {
        **older,
        **newer,
        "pipelines": {**older["pipelines"], **pipelines},
        "stages": {**older["stages"], **{anew.get(key, key): stage for key, stage in newer["stages"].items()}},
        "checks": next(filter(None, checks), {}),
        "earlier": [*older.get("earlier", []), older["provenance"]],
    }


def _field(record: dict, name: str) -> Any:
    return device_of(record) if name == "device" else record[name]


def _reading_order(run: dict) -> tuple:
    numbers = [(name, value) for name, value in sorted(run["settings"].items()) if _is_number(value)]
    return (
        WORLDS.index(run["world"]),
        run["preset"],
        run["device"],
        ALGORITHMS.index(run["algorithm"]),
        run["target"],
        numbers,
        json.dumps(run["settings"], sort_keys=True, default=str),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def varying_settings(runs: Sequence[dict]) -> list[str]:
    """The names of the settings in which the runs (or records) differ, in the order of the first one's."""
    names = list(dict.fromkeys(name for run in runs for name in run["settings"]))
    values = {name: [run["settings"].get(name) for run in runs] for name in names}
    return [name for name in names if any(value != values[name][0] for value in values[name])]


def seed_values(run: dict) -> dict[str, dict[str, dict[int, float]]]:
    """`{pipeline: {metric: {seed: value}}}` of a run; an undefined value is NaN."""
    metrics: dict[str, dict[str, None]] = {}
    for record in run["records"]:
        for pipeline, entry in record["pipelines"].items():
            metrics.setdefault(pipeline, {}).update(dict.fromkeys(entry["metrics"]))
    return {pipeline: {metric: by_seed(run, pipeline, metric) for metric in of} for pipeline, of in metrics.items()}


def by_seed(run: Mapping, pipeline: str, metric: str = "reward") -> dict[int, float]:
    """A metric of a pipeline by seed; an undefined value is NaN. Empty where the run does not hold it."""
    values = {
        record["seed"]: record["pipelines"][pipeline]["metrics"][metric]
        for record in run["records"]
        if metric in record["pipelines"].get(pipeline, {"metrics": {}})["metrics"]
    }
    return {seed: math.nan if value is None else float(value) for seed, value in values.items()}


# Summaries


def summarise_run(run: dict) -> dict:
    """What a run found: settings, checks, intervals over seeds, and the claims with their verdicts.

    `label` says in words why there is no verdict, where there is none for want of seeds or of an order. Nothing is
    concluded from fewer seeds than the plan registered for a run, whose claims are then `unfinished`, nor from an
    exploratory one, whose claims are `exploratory`.
    """
    values, checks, (label, open_for) = seed_values(run), run_checks(run), _label(run)
    claims = decide_claims(values, run["world"])
    failed = failed_check(checks)
    if failed is not None:
        claims = [{**claim, "verdict": "invalid", "failed_check": failed} for claim in claims]
    elif open_for is not None:
        claims = [{**claim, "verdict": open_for} for claim in claims]
    return {
        **{name: run[name] for name in RUN_KEY},
        "label": label,
        "checks": checks,
        "pipelines": {
            pipeline: {metric: _summary(seeds) for metric, seeds in metrics.items()}
            for pipeline, metrics in values.items()
        },
        "claims": claims,
    }


def frame(records: Iterable[dict]) -> pd.DataFrame:
    """A tidy table for notebooks: one row per run, pipeline, seed and metric.

    Columns: world, preset, device, algorithm, target, settings that vary, pipeline, seed, metric, value.
    """
    import pandas as pd

    runs = group_runs(records)
    varying = varying_settings(runs) if runs else []
    head = [name for name in RUN_KEY if name != "settings"]
    rows = [
        {
            **{name: run[name] for name in head},
            **{name: run["settings"].get(name) for name in varying},
            "pipeline": pipeline,
            "seed": seed,
            "metric": metric,
            "value": value,
        }
        for run in runs
        for pipeline, metrics in seed_values(run).items()
        for metric, seeds in metrics.items()
        for seed, value in seeds.items()
    ]
    return pd.DataFrame(rows, columns=[*head, *varying, "pipeline", "seed", "metric", "value"])


def _label(run: dict) -> tuple[str | None, str | None]:
    """Why there is no verdict in words, and what stands in its place where the plan is the reason."""
    paired = {record["seed"] for record in run["records"] if {K_A, A_K} <= set(record["pipelines"])}
    held = _cells_of_orders(run)
    if held and paired and held[0].arm in plan.EXPLORATORY:
        return "exploratory: no verdict", "exploratory"
    if paired and len({cell.seeds for cell in held}) > 1:
        return "seeds that were registered apart: no verdict", "unfinished"
    wanted = {seed for cell in held for seed in cell.seeds}
    if paired and not wanted <= paired:
        return f"{len(paired & wanted)} of {len(wanted)} registered seeds: no verdict", "unfinished"
    if len(paired) > 1:
        return None, None
    return "one seed: no verdict" if paired else "not both orders: no verdict", None


def _summary(seeds: dict[int, float]) -> dict:
    mean, low, high = t_interval(list(seeds.values()))
    held = [{"seed": seed, "value": value} for seed, value in seeds.items()]
    return {"mean": mean, "low": low, "high": high, "seeds": held}
