"""One seed's record while a run goes on: a JSON file, written aside and moved into place.

A record is a plain dict. `validate` says which fields it must have, `run_key` which of them make two records one run,
and `records` turns any number of them into tables.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignkd_lab.errors import BadInput
from alignkd_lab.pipelines import A_K, K_A, ORDERS, YARDSTICKS
from alignkd_lab.store import key_of

SCHEMA = 2
USUAL_DTYPE = {"cpu": "float32", "cuda": "bfloat16"}
IDENTITY = ("world", "preset", "device", "algorithm", "target", "settings")  # what makes two records one run


class RecordError(BadInput):
    """A record, or a folder of records, that cannot be used; the message names the place and the way out."""


def file_of(folder: Path, record: dict) -> Path:
    """Where the record of a run and seed is kept: its name tells what it is, and ends in a hash of the settings."""
    name = "-".join(str(record[part]) for part in ("world", "preset", "algorithm", "target")).replace("/", "_")
    return folder / "runs" / f"{name}-{run_key(record)}-seed{record['seed']}.json"


def find(folder: Path, head: dict, seeds: Sequence[int]) -> dict[int, Path]:
    """The files below a folder that hold these seeds of a run; `head` has the fields of `IDENTITY`."""
    places = {seed: file_of(folder, {**head, "seed": seed}) for seed in seeds}
    return {seed: path for seed, path in places.items() if path.is_file()}


def write(folder: Path, record: dict) -> Path:
    """Keeps one seed's record in `folder/runs`, moved into place whole; pipelines that were kept before stay beside it.

    Raises:
        RecordError: the record lacks a field, or holds NaN or infinity (None stands for undefined).
    """
    path = file_of(folder, validate(record, "new record"))
    if path.is_file():
        record = merge(read_json(path), record)
    try:
        text = json.dumps(record, allow_nan=False)
    except ValueError as error:
        raise RecordError(f"new record {path.name}: a value is NaN or infinite, write None instead") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".writing", delete=False, encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)
    return path


def read_json(path: Path) -> dict:
    """One seed's record. Raises RecordError, which names the file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise RecordError(f"{path}: not JSON ({error}); remove it and run its seed again") from error
    return validate(record, str(path))


def validate(record: Any, where: str) -> dict:
    """The record itself. Raises RecordError naming `where` and the first field that is wrong."""
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        held = record.get("schema") if isinstance(record, dict) else None
        raise RecordError(f"{where}: schema must be {SCHEMA}, not {held!r}: of another version? run it again")
    for name in ("preset", "target", "device", "world", "algorithm"):
        if not isinstance(record.get(name), str):
            raise RecordError(f"{where}: {name} must be a word, not {record.get(name)!r}")
    for name in ("settings", "pipelines", "stages", "provenance"):
        if not isinstance(record.get(name), dict):
            raise RecordError(f"{where}: {name} must be an object, not {str(record.get(name))[:60]!r}")
    if not isinstance(record.get("seed"), int):
        raise RecordError(f"{where}: seed must be a whole number, not {record.get('seed')!r}")
    for name, entry in record["pipelines"].items():
        if any(not (value is None or isinstance(value, int | float)) for value in entry["metrics"].values()):
            raise RecordError(f"{where}: pipelines.{name}.metrics must be numbers or null")
        if missing := [key for key in entry["stages"] if key not in record["stages"]]:
            raise RecordError(f"{where}: pipelines.{name}.stages names {missing[0]!r}, which `stages` lacks")
    return record


def run_key(record: dict) -> str:
    """A short hash of what makes two records one run, settings that the record lacks at their defaults."""
    identity = {name: record[name] for name in IDENTITY}
    return key_of({**identity, "settings": full_settings(record["world"], record["settings"])})[:10]


def full_settings(world: str, settings: dict) -> dict:
    return {**_defaults(world), **settings}


@functools.cache
def _defaults(world: str) -> dict:
    from alignkd_lab.lm.settings import LmSettings
    from alignkd_lab.mog.settings import MogSettings

    return plain_settings(LmSettings() if world == "lm" else MogSettings())


def plain_settings(settings: Any) -> dict:
    """The settings of a world the way a record gives them back: tuples are lists there."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def device_label(device: str, dtype: str | None) -> str:
    """`cpu`, or `cpu, bfloat16` where that is not the type in which this device usually multiplies."""
    name = (dtype or "").removeprefix("torch.")
    return f"{device}, {name}" if name and name != USUAL_DTYPE.get(device, name) else device


def merge(older: dict, newer: dict) -> dict:
    """Two records of one run and seed: the newer one's pipelines win, and the older one fills in those it lacks.

    But both orders and the yardsticks beside them stay together until both are run again: on another processor
    rounding makes them other draws. `earlier` keeps the provenance of the older records, newest last.
    """
    both = {K_A, A_K}
    kept = (*YARDSTICKS, *ORDERS) if both <= set(older["pipelines"]) and not both <= set(newer["pipelines"]) else ()
    # A stage's key names no machine: one that was run again elsewhere stands beside the older one, each for its own.
    anew = {
        key: f"{key}, of {newer['provenance']['created']}"
        for key, stage in newer["stages"].items()
        if older["stages"].get(key, stage) != stage
    }
    pipelines = {
        name: {**entry, "stages": [anew.get(key, key) for key in entry["stages"]]}
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
