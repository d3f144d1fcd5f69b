"""`alignkd run --from RECORD --check`: run a recorded seed again, and say whether the figures come out as recorded.

On the same machine and versions most figures come out to the last digit. Elsewhere a product rounds otherwise, a
sampled token changes, and with it all that follows: then a seed run again is a new draw, and each figure is held
against the 95 % interval in which one more seed is to be expected. One in twenty lies outside by chance, and figures of
one model move together; so a rerun counts as another run where any lies far outside, or too many outside. Of the seeds
of the study on SmolLM2, each held against the others of its run, 10 of 89 would be refused.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from alignkd_lab.errors import BadInput
from alignkd_lab.experiment import run_experiment
from alignkd_lab.provenance import best_device, provenance
from alignkd_lab.recording import read_json
from alignkd_lab.records import Records, load, tabulate
from alignkd_lab.stats import ALPHA, Interval, prediction_interval
from alignkd_lab.store import key_of

MOST_OUTSIDE = 4 * ALPHA  # of the figures that have an interval: four times as many as chance puts there
NEAR = 0.05  # of a figure that is the same in every recorded seed, within which another one decides nothing
MOST_CHOICES = 24  # that an error spells out
_COMPARED = ("commit", "version", "python", "torch", "transformers", "numpy", "device_name", "threads")


def choose(path: Path, algorithm: str | None = None, settings: Mapping[str, Any] | None = None) -> Records:
    """The one run of a file or folder that has this algorithm and these settings; `device`, `study` and `target` count
    as settings here, and for Gaussians `target_weight`, the target's share of the truth.

    Raises:
        BadInput: none has, or several have; with what there is to choose from.
    """
    held = load(path)
    runs = {run: _named(held, run) for run in held.runs["run"]}
    wanted = {**({"algorithm": algorithm} if algorithm else {}), **(settings or {})}
    found = [run for run, named in runs.items() if all(named.get(name) == value for name, value in wanted.items())]
    if len(found) == 1:
        return held.select(run=found[0])
    if not found:
        asked = " ".join(f"{name}={value}" for name, value in wanted.items())
        raise BadInput(f"{path}: no run with {asked}; it holds {held.summary()}")
    names = [name for name in runs[found[0]] if len({json.dumps(runs[run].get(name)) for run in found}) > 1]
    names = [name for name in names if name != "truth_weights" or "target_weight" not in names]
    several = f"{path} holds {len(found)} runs that fit; choose one by"
    if len(found) > MOST_CHOICES:
        raise BadInput(f"{several} --set {' '.join(f'{name}=…' for name in names)}")

    def word(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))

    told = sorted(" ".join(shlex.quote(f"{name}={word(runs[run].get(name))}") for name in names) for run in found)
    raise BadInput("\n  --set ".join([several, *told]))


def _named(held: Records, run: str) -> dict:
    """What names a run: its settings, and what else tells it from others."""
    row, settings = held.runs[held.runs["run"] == run].iloc[0], held.settings_of(run)
    named = {**{name: row[name] for name in ("algorithm", "device", "target", "preset")}, **settings}
    named["study"] = run.rpartition("/")[0]
    if row["world"] == "mog":
        named["target_weight"] = round(sum(settings["truth_weights"][target] for target in settings["targets"]), 12)
    return named


def rerun(
    run: Records,
    *,
    out: Path,
    seeds: Sequence[int] | None = None,
    pipelines: Sequence[str] | None = None,
    device: str | None = None,
    again: Callable[[Records, Path, Sequence[int], Sequence[str]], None] | None = None,
) -> Records:
    """Run seeds of a recorded run again below `out`, by default its first, with all pipelines that it holds.

    `again` runs what `alignkd run` does not: an experiment of the study's second part.

    Raises:
        BadInput: the run lacks a seed or pipeline that was asked for.
    """
    about, device = run.the_run(), device or best_device()
    seeds = tuple(seeds or run.seeds[:1])
    if missing := [seed for seed in seeds if seed not in run.seeds]:
        raise BadInput(f"seed: the run has no seed {missing[0]}; use some of {', '.join(map(str, run.seeds))}")
    held = run.select(seed=seeds)
    names = tuple(pipelines or held.pipelines)
    if absent := [name for name in names if name not in held.pipelines]:
        raise BadInput(f"pipeline: seed {seeds[0]} holds no {absent[0]!r}; it has {', '.join(held.pipelines)}")
    if "threads" in held.provenance and len(threads := held.provenance["threads"].dropna()):
        import torch

        torch.set_num_threads(int(threads.iloc[0]))  # on another number the same seed is another sample
    if again:
        again(run, out, seeds, names)
        made, key = load(out), about["run"].rpartition("/")[2]
        return made.select(run=[name for name in made.runs["run"] if name.rpartition("/")[2] == key], seed=seeds)
    settings, kind = dict(run.settings), about["device"].partition(", ")
    if about["world"] == "lm" and kind[0] == device == "cpu":
        settings["dtype"] = kind[2] or "default"
    request = {name: about[name] for name in ("world", "preset", "algorithm", "target")}
    files = run_experiment(
        **request, pipelines=names, seeds=seeds, out=out, overrides=settings, device=device,
        yardsticks=(),  # `names` holds those of the record
    )  # fmt: skip
    return tabulate(map(read_json, files))


def folder_of_code(device: str | None) -> str:
    """A name for what is run by this code, these versions and this machine: what another made is no rerun of it.

    Of code that is not committed nothing tells one state from the next, so every call has a name of its own.
    """
    made = provenance(best_device(device))
    parts = {name: made[name] for name in _COMPARED}
    return key_of({**parts, "created": made["created"]} if made["dirty"] else parts)[:8]


def compare(run: Records, again: Records) -> pd.DataFrame:
    """Every metric that both hold, by pipeline and seed: `recorded`, `here`, `low`, `high` and a verdict.

    `same` to the digits that the record keeps, `within` the 95 % interval for one more seed, `outside` of it, `far
    outside` where it also leaves that at the level that counts all rows (Bonferroni), `no interval` where a single seed
    was recorded, `no spread` where all recorded seeds agree and this one is near, which decides nothing.
    """
    keys = ["pipeline", "metric", "seed"]
    rows = run.metrics[[*keys, "value"]].merge(again.metrics[[*keys, "value"]], on=keys, suffixes=("_then", "_here"))
    rows = rows.rename(columns={"value_then": "recorded", "value_here": "here"})
    every = run.metrics.groupby(["pipeline", "metric"])["value"].apply(list)
    # Values were kept with four significant digits in the Gaussian studies, else with seven.
    digits = 4 if all(float(f"{value:.4g}") == value for value in run.metrics["value"].dropna()) else 7
    spans = [prediction_interval(every[pipeline, metric], 1 - ALPHA) for pipeline, metric in rows[keys[:2]].values]
    wide = [prediction_interval(every[p, metric], 1 - ALPHA / len(rows)) for p, metric in rows[keys[:2]].values]
    pairs = zip(rows["recorded"], rows["here"], spans, wide, strict=True)
    verdicts = [_verdict(recorded, here, near, far, digits) for recorded, here, near, far in pairs]
    return rows.assign(low=[span.low for span in spans], high=[span.high for span in spans], verdict=verdicts)


def _verdict(recorded: float, here: float, near: Interval, far: Interval, digits: int) -> str:
    if math.isnan(here) and math.isnan(recorded):
        return "same"
    if float(f"{here:.{digits}g}") == recorded or math.isclose(here, recorded, rel_tol=1e-6, abs_tol=1e-12):
        return "same"
    if math.isnan(near.low):
        return "no interval"
    if near.low == near.high and math.isclose(here, recorded, rel_tol=NEAR):  # nothing says how far one may lie from it
        return "no spread"
    if near.low <= here <= near.high:
        return "within"
    return "outside" if far.low <= here <= far.high else "far outside"


def is_reproduced(rows: pd.DataFrame) -> bool:
    """False where a figure lies far outside, has no interval, or more than `MOST_OUTSIDE` are outside; or of none."""
    bad, outside = rows["verdict"].isin(["far outside", "no interval"]).sum(), (rows["verdict"] == "outside").sum()
    return bool(len(rows) and not bad and outside <= MOST_OUTSIDE * len(rows))


def render(run: Records, again: Records, rows: pd.DataFrame) -> str:
    """The rows that differ, what else is another, how many figures were the same, and the verdict."""
    differing, counts = rows[rows["verdict"] != "same"], rows["verdict"].value_counts()
    lines = [differing.to_string(index=False, float_format="{:.6g}".format)] if len(differing) else []
    made = run.select(seed=again.seeds).provenance.to_dict("records")
    earlier = [part for row in made if isinstance(row.get("earlier"), str) for part in json.loads(row["earlier"])]
    for name in _COMPARED:
        rows_of = [*earlier, *made], again.provenance.to_dict("records")
        old, new = (sorted({str(row[name]) for row in part if pd.notna(row.get(name))}) for part in rows_of)
        if old != new:
            lines.append(f"{name}: recorded {' and '.join(old) or '–'}, here {' and '.join(new)}")
    words = ("same", "within", "outside", "far outside", "no interval", "no spread")
    lines.append(f"{len(rows)} figures: " + ", ".join(f"{counts.get(word, 0)} {word}" for word in words))
    if not is_reproduced(rows):
        return "\n".join([*lines, "Not reproduced."])
    exact = "Reproduced: every figure is the same." if not len(differing) else ""
    return "\n".join([*lines, exact or "Compatible: it could be one more seed of this run."])
