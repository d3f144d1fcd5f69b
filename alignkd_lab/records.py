"""What a run leaves behind: one JSON line per settings and seed, how it is kept, and how it is read.

A record is a plain dict (`validate_record` says which fields it must have), a run is the group of records
that differ in nothing but their seed, and `summarise_run` says what a run found.

Records of older code lack settings that came later. A setting that a record lacks has its default: it is filled in as
the record is read, so that old and new records of the same settings are one run. Hence a new setting's default must
mean what the code did before.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import math
import os
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkd_lab.checks import failed_check, run_checks
from alignkd_lab.errors import BadInput
from alignkd_lab.metrics import A_K, K_A, decide_claims, t_interval
from alignkd_lab.pipelines import YARDSTICKS

if TYPE_CHECKING:
    import pandas as pd

    from alignkd_lab.pipelines import Outcome

SCHEMA = 1
WORLDS = ("mog", "lm")
ALGORITHMS = ("rlhf", "dpo")
FIELD_TYPES = {
    "preset": str,
    "target": str,
    "seed": int,
    "settings": dict,
    "pipelines": dict,
    "stages": dict,
    "provenance": dict,
}
UNFINISHED = "registered seeds: no verdict"
RUN_KEY = ("world", "preset", "device", "algorithm", "target", "settings")
# The type of matrix products by device; a CPU takes bfloat16 where that is faster (`lm.trainer.product_dtype`).
USUAL_PRODUCTS = {"cpu": "float32", "cuda": "bfloat16"}


class RecordError(BadInput):
    """A record, or a folder of records, that cannot be used; the message names the place and the way out."""


# Reading and writing


def validate_record(record: Any, where: str = "record") -> dict:
    """Return `record` unchanged, or raise RecordError naming `where` and the first field that is wrong."""
    _require(isinstance(record, dict), where, "the line", "be a JSON object", record)
    schema = record.get("schema")
    _require(schema == SCHEMA, where, "schema", f"be {SCHEMA} (another version's? run it again)", schema)
    for name, accepted in (("world", WORLDS), ("algorithm", ALGORITHMS)):
        value = record.get(name)
        _require(value in accepted, where, name, f"be one of {', '.join(accepted)}", value)
    for name, kind in FIELD_TYPES.items():
        value = record.get(name)
        fits = isinstance(value, kind) and not isinstance(value, bool)
        _require(fits, where, name, f"be of type {kind.__name__}", value)
    for name, entry in record["pipelines"].items():
        _validate_pipeline(entry, f"pipelines.{name}", record["stages"], where)
    device, created = (record["provenance"].get(name) for name in ("device", "created"))
    _require(isinstance(device, str), where, "provenance.device", "be of type str", device)
    _require(_time(created) is not None, where, "provenance.created", "be an ISO time", created)
    return record


def pipeline_entry(outcome: Outcome, position: int) -> dict:
    """A pipeline's part of one seed's record; what an evaluation holds per seed is split, the rest stays."""
    evaluation = dict(outcome.evaluation)
    metrics = {name: values[position] for name, values in evaluation.pop("metrics").items()}
    if "view" in evaluation:
        evaluation["view"] = evaluation["view"][position]
    return {"metrics": metrics, "stages": outcome.stages, **evaluation}


def stage_of_seed(stage: dict, position: int) -> dict:
    """A stage's part of one seed's record: of what it left per seed, that seed's."""
    info = dict(stage["info"])
    per_seed = info.pop("per_seed", {})
    return {**stage, "info": {**info, **{name: values[position] for name, values in per_seed.items()}}}


def append_record(path: Path | str, record: dict) -> None:
    """Add one line to `path` and force it to the disk; a torn last line is reported and cut off first.

    Raises RecordError if the record is not valid, or holds NaN or infinity (None stands for undefined).
    """
    path = Path(path)
    validate_record(record, f"new record for {path}")
    try:
        line = json.dumps(record, allow_nan=False) + "\n"
    except ValueError as error:
        raise RecordError(f"new record for {path}: a value is NaN or infinite, write None instead") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    _mend_last_line(path)
    # One unbuffered write: a reader, or a crash, sees a whole line or a torn last one, never a mixture.
    with open(path, "ab", buffering=0) as file:
        file.write(line.encode())
        os.fsync(file.fileno())


def load_records(folder: Path | str) -> list[dict]:
    """All records of the files below `folder` (or of one such file), oldest first, settings complete.

    A torn last line is left out with a warning that names file and line. Raises RecordError if there is
    no record at all, or if any other line is not one.
    """
    folder = Path(folder)
    if not folder.exists():
        raise RecordError(f"{folder} does not exist: give the folder that `alignkd run --out` wrote")
    records = [record for path in record_files(folder) for record in _read(path)]
    if not records:
        raise RecordError(f"no records (*.jsonl) below {folder}: make some with `alignkd run --out {folder}`")
    return sorted(records, key=_created)


def record_files(folder: Path) -> list[Path]:
    """Files of records below `folder`, or `folder` if it is one: `*.jsonl`, and `*.jsonl.gz` for what is finished."""
    return [folder] if folder.is_file() else sorted([*folder.rglob("*.jsonl"), *folder.rglob("*.jsonl.gz")])


def unpacked(path: Path) -> bytes:
    """What a file of records holds, packed (`.gz`) or not. Raises RecordError if it cannot be unpacked."""
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise RecordError(f"{path}: cannot be unpacked ({error}); copy it from where it came from") from error


def _read(path: Path) -> Iterable[dict]:
    lines = unpacked(path).split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                warnings.warn(f"{where}: the last line is torn (a run was cut off), left out", stacklevel=3)
                return
            raise RecordError(f"{where}: not JSON ({error}); remove it and run its seed again") from error
        yield _with_defaults(validate_record(record, where))


def _with_defaults(record: dict) -> dict:
    return {**record, "settings": {**_defaults(record["world"]), **record["settings"]}}


@functools.cache
def _defaults(world: str) -> dict:
    """A world's settings at their defaults, the way JSON gives them back."""
    from alignkd_lab.lm.settings import LmSettings
    from alignkd_lab.mog.settings import MogSettings

    return plain_settings(LmSettings() if world == "lm" else MogSettings())


def plain_settings(settings: Any) -> dict:
    """The settings of a world the way a record gives them back: tuples are lists there."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def _mend_last_line(path: Path) -> None:
    if not path.exists() or _ends_whole(path):
        return
    content = path.read_bytes()
    kept, newline, last = content.rpartition(b"\n")
    try:
        json.loads(last)
        with open(path, "ab") as file:
            file.write(b"\n")
    except ValueError:
        number = content.count(b"\n") + 1
        warnings.warn(f"{path}, line {number}: the last line was torn, cut off", stacklevel=3)
        os.truncate(path, len(kept + newline))


def _ends_whole(path: Path) -> bool:
    """Whether the file is empty or ends with a newline; a long file is not read for that."""
    with open(path, "rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _validate_pipeline(entry: Any, field: str, stages: dict, where: str) -> None:
    _require(isinstance(entry, dict), where, field, "be an object", entry)
    metrics = entry.get("metrics")
    _require(isinstance(metrics, dict), where, f"{field}.metrics", "be an object", metrics)
    for metric, value in metrics.items():
        known = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        _require(known, where, f"{field}.metrics.{metric}", "be a number or null", value)
    for key in entry.get("stages", []):
        _require(key in stages, where, f"{field}.stages", "name keys of `stages`", key)


def _require(condition: bool, where: str, field: str, rule: str, value: Any) -> None:
    if not condition:
        raise RecordError(f"{where}: {field} must {rule}, got {str(value)[:80]!r}")


def _time(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _created(record: dict) -> datetime:
    return _time(record["provenance"]["created"])


# Grouping


def group_runs(records: Iterable[dict]) -> list[dict]:
    """Runs: dicts with the fields of `RUN_KEY` and `records`, one a seed, in the order of the seeds.

    Records that differ in any of `RUN_KEY` are never pooled. Where a seed was run more than once the
    newest record wins, pipeline by pipeline: an older one only fills in the pipelines that it lacks. But the yardsticks
    that were run beside both orders stay beside them: on another processor rounding makes them other draws.
    """
    runs: list[dict] = []
    for record in sorted(records, key=_created):
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


def _merged(older: dict, newer: dict) -> dict:
    parts = {name: {**older[name], **newer[name]} for name in ("pipelines", "stages")}
    if {K_A, A_K} <= set(older["pipelines"]) and not {K_A, A_K} & set(newer["pipelines"]):
        kept = {name: older["pipelines"][name] for name in YARDSTICKS if name in older["pipelines"]}
        used = {stage for entry in kept.values() for stage in entry["stages"]}
        parts["pipelines"].update(kept)
        parts["stages"].update({stage: older["stages"][stage] for stage in used if stage in older["stages"]})
        parts["checks"] = older.get("checks", {})
    return {**older, **newer, **parts}


def _field(record: dict, name: str) -> Any:
    return device_of(record) if name == "device" else record[name]


def device_of(record: Mapping) -> str:
    """`cpu` or `cuda`, with the type of matrix products where it is not that device's usual one: `cpu, bfloat16`.

    In another type every sampled token may differ, so that a seed is another draw.
    """
    provenance = record["provenance"]
    return device_with_products(provenance["device"], provenance.get("weights", {}).get("products"))


def device_with_products(device: str, products: str | None) -> str:
    """See `device_of`; `products` is the type's name, with or without `torch.` before it."""
    name = (products or "").removeprefix("torch.")
    return f"{device}, {name}" if name and name != USUAL_PRODUCTS.get(device, name) else device


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
    concluded from fewer seeds than the plan registered for a run: its claims are `unfinished`.
    """
    values, checks, label = seed_values(run), run_checks(run), _label(run)
    claims = decide_claims(values, run["world"])
    failed = failed_check(checks)
    if failed is not None:
        claims = [{**claim, "verdict": "invalid", "failed_check": failed} for claim in claims]
    elif label is not None and label.endswith(UNFINISHED):
        claims = [{**claim, "verdict": "unfinished"} for claim in claims]
    return {
        **{name: run[name] for name in RUN_KEY},
        "label": label,
        "checks": checks,
        "pipelines": {
            pipeline: {metric: _summary(by_seed) for metric, by_seed in metrics.items()}
            for pipeline, metrics in values.items()
        },
        "claims": claims,
    }


def strict(value: Any) -> Any:
    """`value` with every number that JSON cannot hold replaced by None."""
    if isinstance(value, dict):
        return {name: strict(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


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
        for metric, by_seed in metrics.items()
        for seed, value in by_seed.items()
    ]
    return pd.DataFrame(rows, columns=[*head, *varying, "pipeline", "seed", "metric", "value"])


def _label(run: dict) -> str | None:
    from alignkd_lab.lm.plan import seeds_wanted

    paired = {record["seed"] for record in run["records"] if {K_A, A_K} <= set(record["pipelines"])}
    wanted = seeds_wanted(run)
    if wanted and paired and not set(wanted) <= paired:
        return f"{len(paired & set(wanted))} of {len(wanted)} {UNFINISHED}"
    if len(paired) > 1:
        return None
    return "one seed: no verdict" if paired else "not both orders: no verdict"


def _summary(by_seed: dict[int, float]) -> dict:
    mean, low, high = t_interval(list(by_seed.values()))
    seeds = [{"seed": seed, "value": value} for seed, value in by_seed.items()]
    return {"mean": mean, "low": low, "high": high, "seeds": seeds}
