"""What a run leaves behind: one JSON line per settings and seed, how it is kept, and how it is read.

A record is a plain dict; `validate_record` says which fields it must have. `alignkd_lab.runs` groups records into runs
and says what those found.

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
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkd_lab.errors import BadInput

if TYPE_CHECKING:
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
# The dtype of matrix products by device, unless the settings name another (`lm.settings.resolve_dtype`).
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
    device, made = (record["provenance"].get(name) for name in ("device", "created"))
    _require(isinstance(device, str), where, "provenance.device", "be of type str", device)
    _require(_time(made) is not None, where, "provenance.created", "be an ISO time", made)
    return record


def pipeline_entry(outcome: Outcome, position: int) -> dict:
    """A pipeline's part of one seed's record; what an evaluation holds per seed is split, the rest stays.

    An undefined metric (NaN) is None.
    """
    evaluation = dict(outcome.evaluation)
    values = {name: of_seeds[position] for name, of_seeds in evaluation.pop("metrics").items()}
    metrics = {name: None if math.isnan(value) else value for name, value in values.items()}
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
        raise RecordError(f"no records (*.jsonl, *.jsonl.gz) below {folder}: `alignkd run --out {folder}` makes some")
    return sorted(records, key=created)


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


def holds_records(path: Path) -> bool:
    """Whether a file of records has a whole line; not where its first record was cut off."""
    return b"\n" in unpacked(path)


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


_RENAMED = {"on_policy_distillation": "gkd", "on_policy_divergence": "gkd_divergence"}


def _with_defaults(record: dict) -> dict:
    renamed = {
        name: {_RENAMED.get(key, key): value for key, value in record[name].items()}
        for name in ("pipelines", "settings")
    }
    record = {**record, **renamed}
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


def created(record: Mapping) -> datetime:
    """When the record was made."""
    return _time(record["provenance"]["created"])


def device_of(record: Mapping) -> str:
    """`cpu` or `cuda`, with the type of matrix products where it is not that device's usual one: `cpu, bfloat16`.

    In another type every sampled token may differ, so that a seed is another draw.
    """
    provenance = record["provenance"]
    weights = provenance.get("weights", {})  # older records call the dtype their products
    return device_with_products(provenance["device"], weights.get("dtype", weights.get("products")))


def device_with_products(device: str, products: str | None) -> str:
    """See `device_of`; `products` is the type's name, with or without `torch.` before it."""
    name = (products or "").removeprefix("torch.")
    return f"{device}, {name}" if name and name != USUAL_PRODUCTS.get(device, name) else device


def strict(value: Any) -> Any:
    """`value` with every number that JSON cannot hold replaced by None."""
    if isinstance(value, dict):
        return {name: strict(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
