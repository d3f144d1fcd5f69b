"""One seed's record while a run goes on: a JSON file, written aside and moved into place.

A record is a plain dict: `schema`; the run's identity (`IDENTITY`) and its `seed`; `pipelines`, each with `metrics`,
the keys of its `stages` and, if kept, `counts`, `samples`, `view` and its study's `arm`; `stages` by their keys with
`name`, `kind`, `info`, seconds and costs; `checks`; `provenance`. `validate` says which of them it must have, `run_key`
what makes two records one run, and `records` turns any number of them into tables.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alignkd_lab.errors import BadInput
from alignkd_lab.pipelines import A_K, ALGORITHMS, K_A, ORDERS, WORLDS, YARDSTICKS
from alignkd_lab.store import key_of, safe_name, write_whole

SCHEMA = 2
IDENTITY = ("world", "preset", "device", "algorithm", "target", "settings")  # what makes two records one run
_FIELDS = {
    **dict.fromkeys(("world", "preset", "device", "algorithm", "target"), str),
    **dict.fromkeys(("settings", "pipelines", "stages", "provenance"), dict),
    "seed": int,
}
# Settings that came after the shipped records, by the value that means what the code did before.
ADDED: dict[str, dict[str, Any]] = {"mog": {}, "lm": {"dtype": "default", "adpa_form": "formula", "prompts": "shipped"}}


class RecordError(BadInput):
    """A record, or a folder of records, that cannot be used; the message names the place and the way out."""


def file_of(folder: Path, record: dict) -> Path:
    """Where the record of a run and seed is kept: its name tells what it is, and ends in a hash of the settings."""
    name = "-".join(str(record[part]) for part in ("world", "preset", "algorithm", "target"))
    return folder / "runs" / f"{safe_name(name)}-{run_key(record)}-seed{record['seed']}.json"


def find(folder: Path, head: dict, seeds: Sequence[int]) -> dict[int, Path]:
    """The files below a folder that hold these seeds of a run; `head` has the fields of `IDENTITY`."""
    key, found = run_key(head), {}
    for seed in seeds:
        path = file_of(folder, {**head, "seed": seed})
        # A record from before a setting came is named by another hash, and is the run at that setting's default. Where
        # none came they are not looked for: of a map's settings each would read the records of all others.
        older = path.parent.glob(path.name.replace(key, "*")) if ADDED[head["world"]] else ()
        for held in [path] if path.is_file() else older:
            if held == path or run_key(read_json(held)) == key:
                found[seed] = held
    return found


def write(folder: Path, record: dict, first_wins: bool = False) -> Path:
    """Keeps one seed's record in `folder/runs`, moved into place whole; pipelines that were kept before stay beside it.

    With `first_wins` a record that holds all of its pipelines already stays as it is: another run was faster.

    Raises:
        RecordError: the record lacks a field, or holds NaN or infinity (None stands for undefined).
    """
    from filelock import FileLock

    path, seed = file_of(folder, validate(record)), record["seed"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / ".lock"):  # what another process adds to this seed meanwhile would be lost
        path = find(folder, record, [seed]).get(seed, path)
        if path.is_file():
            held = read_json(path)
            if first_wins and set(record["pipelines"]) <= set(held["pipelines"]):
                return path
            record = merge(held, record)
        try:
            text = json.dumps(record, allow_nan=False)
        except ValueError as error:
            raise RecordError(f"{path}: a value is NaN or infinite, write None instead") from error
        write_whole(path, text)
    return path


def read_json(path: Path) -> dict:
    """One seed's record. Raises RecordError, which names the file."""
    try:
        return validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, OSError) as error:
        raise RecordError(f"{path}: not a record ({error}); remove it and run its seed again") from error


def validate(record: Any) -> dict:
    """The record itself. Raises RecordError with the first field that is wrong, and what it must be."""
    _need("a record", record, dict)
    if record.get("schema") != SCHEMA:
        raise RecordError(f"schema must be {SCHEMA}, not {record.get('schema')!r}: another version wrote it")
    for name, kind in _FIELDS.items():
        _need(name, record.get(name), kind)
    for name, known in (("world", WORLDS), ("algorithm", ALGORITHMS)):
        if record[name] not in known:
            raise RecordError(f"{name} must be one of {', '.join(known)}, not {record[name]!r}")
    created(record)
    for key, stage in record["stages"].items():
        for part, kind in (("name", str), ("kind", str), ("info", dict)):
            _need(f"stages.{key}.{part}", stage.get(part) if isinstance(stage, dict) else stage, kind)
    for name, entry in record["pipelines"].items():
        for part, kind in (("metrics", dict), ("stages", list)):
            _need(f"pipelines.{name}.{part}", entry.get(part) if isinstance(entry, dict) else entry, kind)
        for metric, value in entry["metrics"].items():
            _need(f"pipelines.{name}.metrics.{metric}", 0 if value is None else value, (int, float))
        if missing := [key for key in entry["stages"] if key not in record["stages"]]:
            raise RecordError(f"pipelines.{name}.stages names {missing[0]!r}, which `stages` lacks")
    return record


def _need(field: str, value: Any, kind: type | tuple[type, ...]) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = {dict: "an object", list: "a list", str: "a word", int: "a whole number"}.get(kind, "a number or null")
        raise RecordError(f"{field} must be {wanted}, not {str(value)[:60]!r}")


def created(record: dict) -> datetime:
    """When the record was made."""
    text = record["provenance"].get("created")
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise RecordError(f"provenance.created must be an ISO time, not {text!r}") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def run_key(record: dict) -> str:
    """A short hash of what makes two records one run, settings that the record lacks at their defaults."""
    identity = {name: record[name] for name in IDENTITY}
    settings = full_settings(record["world"], record["settings"])
    return key_of({**identity, "settings": _canonical(settings)})[:10]


def full_settings(world: str, settings: dict) -> dict:
    """The settings with those that came later, where an older record lacks them."""
    return {**ADDED[world], **settings}


def _canonical(value: Any) -> Any:
    """2.0 as 2: which of them somebody wrote makes no other run."""
    if isinstance(value, dict):
        return {name: _canonical(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def rounded(value: Any) -> Any:
    """Numbers with seven significant digits, more would be noise and twice the size; but settings as they are."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: part if key == "settings" else rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list | tuple) else value


def plain_settings(settings: Any) -> dict:
    """The settings of a world the way a record gives them back: tuples are lists there."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def newest(records: Iterable[dict]) -> list[dict]:
    """One record a run and seed: those that were kept in several places are merged, the older into the newer."""
    held: dict[tuple, dict] = {}
    for record in sorted(records, key=created):
        place = run_key(record), record["seed"]
        held[place] = merge(held[place], record) if place in held else record
    return list(held.values())


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
