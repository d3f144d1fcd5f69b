"""`alignkd reproduce`: run a recorded run again, and say whether the figures come out as recorded.

On the same machine and versions most figures come out to the last digit. Elsewhere a product rounds otherwise, a
sampled token changes, and with it all that follows: then a seed run again is a new draw, and each figure is held
against the 95 % interval that the recorded seeds predict for one more. One in twenty lies outside by chance, and
figures of one model move together; so a rerun counts as another run where any lies far outside, or too many outside.
"""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignkd_lab.errors import BadInput
from alignkd_lab.experiment import device_here, run_experiment
from alignkd_lab.lm.settings import resolve_dtype
from alignkd_lab.provenance import best_device
from alignkd_lab.records import device_of, load_records
from alignkd_lab.runs import group_runs, seed_values, varying_settings
from alignkd_lab.stats import ALPHA, NAN, Interval
from alignkd_lab.study.array_runs import array_runs
from alignkd_lab.study.boundary import DIGITS

SAME = 1e-6  # records keep seven digits
MOST_OUTSIDE = 4 * ALPHA  # of the figures that an interval was predicted for: four times as many as chance puts there
MOST_CHOICES = 24  # that an error spells out
_COMPARED = ("commit", "version", "python", "torch", "transformers", "numpy", "device", "device_name", "threads")


def reproduce(
    path: Path,
    *,
    out: Path,
    algorithm: str | None = None,
    settings: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    pipelines: Sequence[str] | None = None,
    device: str | None = None,
) -> dict:
    """Run one recorded run again below `out`, and compare every metric of every pipeline.

    `path` is a file of `alignkd run` (.jsonl, .jsonl.gz) or a record of arrays (.json) of the Gaussian study or sweep.
    `algorithm` and `settings` choose among the runs of the file; among the settings `device` names the recorded one,
    and for Gaussians `target_weight` the target's share m0 of the truth. The rest defaults to the run's first seed and
    all pipelines that it holds. Stages that lie below `out` are picked up, as by `alignkd run`.

    Returns `{"world", "algorithm", "target", "seeds", "rows", "provenance", "reproduced"}`; a row has `pipeline`,
    `metric`, `seed`, `recorded`, `here`, `low`, `high` and `verdict`: `same` to six digits (in a record of arrays to
    the four that it keeps), `within` the 95 % interval for one more seed, `outside` of it, `far outside` where it also
    leaves that at the level that counts all rows (Bonferroni), or `no interval` where a single seed was recorded.
    `reproduced` is false where a figure lies far outside, has no interval, or more than `MOST_OUTSIDE` are outside.

    Raises:
        BadInput: no run or several fit, the run lacks a seed or pipeline that was asked for, or `out` holds the record.
    """
    if path.resolve().is_relative_to(out.resolve()):
        raise BadInput(f"out: {path} lies in {out}, where a run would find its seeds done; name another folder")
    run = chosen_run(path, algorithm, settings or {})
    seeds = tuple(seeds or (run["records"][0]["seed"],))
    held = {record["seed"]: record for record in run["records"]}
    missing = [seed for seed in seeds if seed not in held]
    if missing:
        raise BadInput(f"seed: {path} has no seed {missing[0]} of this run; use some of {', '.join(map(str, held))}")
    names = tuple(pipelines or dict.fromkeys(name for seed in seeds for name in held[seed]["pipelines"]))
    absent = [(seed, name) for seed in seeds for name in names if name not in held[seed]["pipelines"]]
    if absent:
        raise BadInput(f"pipeline: seed {absent[0][0]} of {path} holds no {absent[0][1]!r}")
    device = device or best_device()
    provenance = held[seeds[0]]["provenance"]
    settings = run["settings"] | _dtype_of(provenance, device)
    with threads(provenance.get("threads")):
        made = run_experiment(
            world=run["world"],
            preset=run["preset"],
            pipelines=names,
            seeds=seeds,
            out=out,
            algorithm=run["algorithm"],
            target=run["target"],
            overrides=settings,
            device=device,
            yardsticks=(),  # `names` holds those of the record
        )
    here, run = device_here(run["world"], device, settings.get("dtype", "default")), {**run, "settings": settings}
    alike = [record for record in load_records(made) if _alike(record, run) and device_of(record) == here]
    again = {record["seed"]: record for found in group_runs(alike) for record in found["records"]}
    rows = compare(run, again, seeds, names, DIGITS if _is_array(path) else None)
    return {
        **{name: run[name] for name in ("world", "algorithm", "target")},
        "seeds": list(seeds),
        "rows": rows,
        "provenance": _differences(held[seeds[0]], again[seeds[0]]),
        "reproduced": _reproduced([row["verdict"] for row in rows]),
    }


def _dtype_of(provenance: Mapping, device: str) -> dict[str, str]:
    """The setting `dtype` with which a record is made again, where its own does not name it: older ones do not.

    From one kind of device to another a seed is another draw in any case, and each multiplies in what suits it.
    """
    weights = provenance.get("weights", {})
    dtype = (weights.get("dtype") or weights.get("products") or "").removeprefix("torch.")
    if not dtype or provenance["device"] != device or dtype == resolve_dtype("default", device):
        return {}
    return {"dtype": dtype}


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Sums on that many threads, None for as many as there are: on another number the same seed is another draw."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def chosen_run(path: Path, algorithm: str | None, settings: Mapping[str, Any]) -> dict:
    """The one run in a file that has this algorithm and these settings. Raises BadInput for none or several."""
    held = array_runs(path) if _is_array(path) else group_runs(load_records(path))
    found = [
        run
        for run in held
        if algorithm in (None, run["algorithm"])
        and all(name in _named(run) and _named(run)[name] == value for name, value in settings.items())
    ]
    if not found:
        asked = " ".join([algorithm or "", *(f"{name}={value}" for name, value in settings.items())]).strip()
        raise BadInput(f"{path}: no run with {asked}; {_way_out(path, held)}")
    if len(found) > 1:
        raise BadInput(f"{path} holds {len(found)} runs that fit; {_choices(found)}")
    return found[0]


def _choices(runs: Sequence[Mapping]) -> str:
    """How the runs are told apart: every run's own arguments where they are few, else the names of the settings."""
    names, algorithms = _apart(runs), {run["algorithm"] for run in runs}
    if len(runs) > MOST_CHOICES or not names:
        apart = [f"--algorithm {runs[0]['algorithm']}"] * (len(algorithms) > 1)
        apart += [f"--set {' '.join(f'{name}=…' for name in names)}"] * bool(names)
        return f"choose one by {' and '.join(apart) or 'its file'}"
    lines = []
    for run in runs:
        values = {name: json.dumps(_named(run).get(name), separators=(",", ":")).strip('"') for name in names}
        told = " ".join(shlex.quote(f"{name}={value}") for name, value in values.items())
        lines.append(f"--algorithm {run['algorithm']} " * (len(algorithms) > 1) + f"--set {told}")
    return "\n  ".join(["choose one by", *lines])


def _is_array(path: Path) -> bool:
    return path.suffix == ".json"


def _named(run: Mapping) -> dict:
    """What names a run: settings, device, and for Gaussians the target's share of the truth, which sweeps move."""
    settings = {**run["settings"], "device": run["device"]}
    if run["world"] != "mog":
        return settings
    share = sum(settings["truth_weights"][target] for target in settings["targets"])
    return {**settings, "target_weight": round(share, 12)}


def _apart(runs: Sequence[Mapping]) -> list[str]:
    """Names of the settings that tell the runs apart; shares that `target_weight` tells apart are not spelt out."""
    names = varying_settings([{"settings": _named(run)} for run in runs])
    return [name for name in names if name != "truth_weights" or "target_weight" not in names]


def _way_out(path: Path, runs: Sequence[Mapping]) -> str:
    if not _is_array(path):
        return f"`alignkd report {path} --json` lists what there is"
    held = {name: dict.fromkeys(str(_named(run)[name]) for run in runs) for name in _apart(runs)}
    return "it holds " + "; ".join(f"{name} {', '.join(values)}" for name, values in held.items())


def compare(
    run: Mapping,
    again: Mapping[int, Mapping],
    seeds: Sequence[int],
    names: Sequence[str],
    digits: int | None = None,
) -> list[dict]:
    """The rows of `reproduce`: recorded runs against records made here, metric by metric.

    `digits`: how many significant ones the record keeps, where it keeps fewer than records of `alignkd run`.
    """
    values = seed_values(run)
    places = [
        (name, metric, seed)
        for name in names
        for metric in values[name]
        for seed in seeds
        if seed in values[name][metric] and metric in again[seed]["pipelines"][name]["metrics"]
    ]
    rows = []
    for name, metric, seed in places:
        recorded = values[name][metric][seed]
        here = again[seed]["pipelines"][name]["metrics"][metric]
        here = NAN if here is None else float(here)
        near, far = (predicted(list(values[name][metric].values()), 1 - ALPHA / count) for count in (1, len(places)))
        row = {"pipeline": name, "metric": metric, "seed": seed, "recorded": recorded, "here": here}
        rows.append({**row, "low": near.low, "high": near.high, "verdict": _verdict(recorded, here, near, far, digits)})
    return rows


def _reproduced(verdicts: Sequence[str]) -> bool:
    outside = verdicts.count("outside")
    return set(verdicts) <= {"same", "within", "outside"} and outside <= MOST_OUTSIDE * len(verdicts)


def predicted(values: Sequence[float], level: float) -> Interval:
    """Where one more seed is to be expected: mean ± t s √(1 + 1/n); NaN bounds for a single seed."""
    import numpy as np
    from scipy import stats

    data = np.asarray(values, dtype=float)
    if data.size < 2 or not np.isfinite(data).all():
        return Interval(float(data.mean()) if data.size else NAN, NAN, NAN)
    half = float(stats.t.ppf((1 + level) / 2, data.size - 1) * data.std(ddof=1) * math.sqrt(1 + 1 / data.size))
    return Interval(float(data.mean()), float(data.mean()) - half, float(data.mean()) + half)


def render(found: Mapping) -> str:
    """What a person wants to know: the rows that differ, how many were the same, and what else is another."""
    rows = found["rows"]
    counts = Counter(row["verdict"] for row in rows)
    differing = [row for row in rows if row["verdict"] != "same"]
    head = f"{'pipeline':<32}{'metric':<30}{'seed':>5}{'recorded':>13}{'here':>13}  for one more seed"
    lines = [head, *map(_line, differing)] if differing else []
    lines += [f"{entry['name']}: recorded {entry['recorded']}, here {entry['here']}" for entry in found["provenance"]]
    lines.append(
        f"{len(rows)} figures: {counts['same']} the same, {counts['within']} within the 95 % interval for one more "
        f"seed, {counts['outside']} outside of it and {counts['far outside']} far outside."
    )
    if differing:
        lines.append(
            f"Of the {len(differing)} that differ about {ALPHA * len(differing):.0f} would lie outside by chance; more "
            f"than {100 * MOST_OUTSIDE:.0f} % of all, or one far outside, is called another run."
        )
    if counts["no interval"]:
        told = "differ from a record of one seed, which predicts no interval: no verdict on them."
        lines.append(f"{counts['no interval']} {told}")
    lines.append(_in_a_word(found["reproduced"], exactly=not differing))
    return "\n".join(lines)


def _in_a_word(reproduced: bool, exactly: bool) -> str:
    if not reproduced:
        return "Not reproduced."
    return "Reproduced: every figure is the same." if exactly else "Compatible: it could be one more seed of this run."


def _line(row: Mapping) -> str:
    figures = f"{row['seed']:>5}{row['recorded']:>13.6g}{row['here']:>13.6g}"
    span = "" if math.isnan(row["low"]) else f"{row['low']:.4g} to {row['high']:.4g}, "
    return f"{row['pipeline']:<32}{row['metric']:<30}{figures}  {span}{row['verdict']}"


def _verdict(recorded: float, here: float, near: Interval, far: Interval, digits: int | None) -> str:
    if digits and float(f"{here:.{digits}g}") == recorded:
        return "same"
    if here == recorded or math.isclose(here, recorded, rel_tol=SAME, abs_tol=1e-12):
        return "same"
    if math.isnan(here) and math.isnan(recorded):
        return "same"
    if math.isnan(near.low):
        return "no interval"
    if near.low <= here <= near.high:
        return "within"
    return "outside" if far.low <= here <= far.high else "far outside"


def _alike(record: Mapping, run: Mapping) -> bool:
    """Settings that are younger than the record are not held against it: they stood at what changes nothing."""
    settings = record["settings"]
    return record["algorithm"] == run["algorithm"] and all(settings[name] == run["settings"][name] for name in settings
                                                          if name in run["settings"])  # fmt: skip


def _differences(recorded: Mapping, here: Mapping) -> list[dict]:
    """What is another in the making; of a seed that several records hold each of them is named."""
    made = [*recorded.get("earlier", []), recorded["provenance"]]
    rows = []
    for name in _COMPARED:
        values, now = dict.fromkeys(str(provenance.get(name)) for provenance in made), here["provenance"].get(name)
        if list(values) != [str(now)]:
            rows.append({"name": name, "recorded": " and ".join(values), "here": now})
    return rows
