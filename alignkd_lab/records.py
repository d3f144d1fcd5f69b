"""What runs leave behind, as tidy tables: `load(folder)` reads them, and figures, verdicts and notebooks group them.

A run goes on as one JSON file a seed (`recording`). A finished study ships as one zip of Parquet tables (`pack`).
`load` reads both into the same `Records`. `COLUMNS` names what its tables have at least; `stages` have, too, what was
counted along each, and `provenance` what made a record, with that of older records of the seed in `earlier`.

Records that differ in anything but their seed are different runs. `device` names the type of matrix products where it
is not the device's usual one: in another type each sampled token may differ, so a seed is another draw. A setting that
a record lacks has its default, so a new setting's default must mean what the code did before.
"""

from __future__ import annotations

import functools
import io
import json
import math
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from alignkd_lab.errors import BadInput, refusing
from alignkd_lab.pipelines import ALGORITHMS, ORDERS, WORLDS, reading_order
from alignkd_lab.recording import SCHEMA, RecordError, full_settings, newest, read_json, run_key

RERUNS = "again"  # below an out folder, what `alignkd run --from` made: no records of the folder itself
COLUMNS = {  # curves: what was measured along a stage, by step; runs: a row a run, its settings as JSON
    "metrics": "study world preset algorithm target device run arm arm_value pipeline seed metric value",
    "stages": "run seed pipeline place stage kind seconds sampled trained scored peak_memory_bytes",
    "curves": "run seed pipeline stage curve step value",
    "responses": "run seed pipeline prompt response reward target",
    "mixtures": "run seed pipeline component weight x y sd_x sd_y",
    "provenance": "run seed created device_name commit seconds",
    "runs": "run world preset algorithm target device settings",
}
COUNTS = {"responses": "responses", "target": "target_responses", "truth_target_rate": "truth_target_rate"}
PIPELINE_TABLES = ("stages", "curves", "responses", "mixtures")


@dataclass(frozen=True)
class Records:
    """The tables of some runs; `COLUMNS` names their columns."""

    metrics: pd.DataFrame
    stages: pd.DataFrame
    curves: pd.DataFrame
    responses: pd.DataFrame
    mixtures: pd.DataFrame
    provenance: pd.DataFrame
    runs: pd.DataFrame

    def select(self, **where: Any) -> Records:
        """The part where columns of `metrics`, or settings by their names, have these values (one, or a collection).

        Raises:
            BadInput: nothing is left.
        """
        metrics = self.metrics
        for name, wanted in where.items():
            several = list(wanted) if pd.api.types.is_list_like(wanted) else [wanted]
            if name in metrics:
                metrics = metrics[metrics[name].isin(several)]
            else:
                held = self._settings.items()
                runs = [run for run, settings in held if name in settings and settings[name] in (*several, several)]
                metrics = metrics[metrics["run"].isin(runs)]
        if metrics.empty:
            asked = ", ".join(f"{name}={value!r}" for name, value in where.items())
            raise BadInput(f"no record has {asked}; it holds {self.summary()}")
        held = metrics[["run", "pipeline", "seed"]].drop_duplicates()
        runs = held["run"].unique()

        def part(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
            table = table[table["run"].isin(runs)]
            return table.merge(held[keys].drop_duplicates(), on=keys) if len(table) else table

        tables = {name: part(getattr(self, name), ["run", "pipeline", "seed"]) for name in PIPELINE_TABLES}
        made = part(self.provenance, ["run", "seed"])
        return Records(metrics, **tables, provenance=made, runs=self.runs[self.runs["run"].isin(runs)])

    def each(self) -> Iterator[Records]:
        """The runs one by one, in reading order: worlds, presets, devices, algorithms, targets, then settings."""
        parts = {name: dict(list(getattr(self, name).groupby("run", sort=False))) for name in COLUMNS}
        for run in sorted(self.runs.to_dict("records"), key=_reading_place):
            yield Records(**{name: parts[name].get(run["run"], getattr(self, name).iloc[:0]) for name in COLUMNS})

    def table(self, metric: str = "reward") -> pd.DataFrame:
        """One run's metric, seeds down and pipelines across; NaN where it is undefined or was not measured."""
        self.the_run()
        rows = self.metrics[self.metrics["metric"] == metric]
        wide = rows.pivot(index="seed", columns="pipeline", values="value")
        wide.columns = list(wide.columns)
        return wide[reading_order(wide.columns)]

    def the_run(self) -> dict:
        """The one run that this holds, by the columns of `runs`. Raises BadInput where it holds several."""
        if len(self.runs) != 1:
            raise BadInput(f"one run is asked for and here are {len(self.runs)}; choose by its settings with select()")
        return self.runs.iloc[0].to_dict()

    @property
    def settings(self) -> dict:
        """Of the one run."""
        return self.settings_of(self.the_run()["run"])

    def settings_of(self, run: str) -> dict:
        """Of one run by its name; a setting that came after its records has its default."""
        return dict(self._settings[run])

    @functools.cached_property
    def _settings(self) -> dict[str, dict]:
        held = zip(self.runs["run"], self.runs["world"], self.runs["settings"], strict=True)
        return {run: _settings(world, settings) for run, world, settings in held}

    @property
    def pipelines(self) -> list[str]:
        """In reading order."""
        return reading_order(self.metrics["pipeline"].unique())

    @property
    def seeds(self) -> list[int]:
        return sorted(self.metrics["seed"].unique().tolist())

    def paired_seeds(self) -> list[int]:
        """Of one run, the seeds that hold both orders."""
        rewards = self.table("reward").reindex(columns=list(ORDERS))
        return rewards.dropna().index.tolist()

    def summary(self) -> str:
        """What is there, in words, for an error."""
        names = ("study", "world", "preset", "algorithm", "target", "arm")
        held = {name: [str(value) for value in self.metrics[name].unique() if value] for name in names}
        return "; ".join(f"{name} {', '.join(values)}" for name, values in held.items() if values)


@functools.cache
def _settings(world: str, text: str) -> dict:
    return full_settings(world, json.loads(text))


def _reading_place(run: dict) -> tuple:
    settings = _settings(run["world"], run["settings"])
    numbers = [(k, v) for k, v in sorted(settings.items()) if isinstance(v, int | float) and not isinstance(v, bool)]
    head = WORLDS.index(run["world"]), run["preset"], run["device"], ALGORITHMS.index(run["algorithm"])
    return (*head, run["target"], numbers, run["settings"])


def varying_settings(records: Records) -> list[str]:
    """The settings in which the runs differ, in their own order."""
    every = [records.settings_of(run) for run in records.runs["run"]]
    names = dict.fromkeys(name for settings in every for name in settings)
    return [name for name in names if any(settings.get(name) != every[0].get(name) for settings in every)]


# Reading ----------------------------------------------------------------------------------------------


def load(*folders: Path | str) -> Records:
    """Every record below the folders (or in the files) named, JSON of a run that goes on and packed studies alike.

    A seed that lies in several places counts once (`recording.merge`).

    Raises:
        RecordError: there is no record, or one cannot be read; the message names the file and the way out.
    """
    files: list[Path] = []
    for folder in map(Path, folders):
        if not folder.exists():
            raise RecordError(f"{folder} does not exist: give the folder that `alignkd run --out` wrote")
        files += [path for path in record_files(folder) if path not in files]
    found = [_unpack(path) for path in files if path.suffix == ".zip"]
    if loose := [path for path in files if path.suffix == ".json"]:
        found.append(tabulate(newest(map(read_json, loose))))
    if not found:
        where = ", ".join(map(str, folders))
        raise RecordError(f"no records (*.json, *.zip) below {where}: `alignkd run --out FOLDER` makes some")
    return concat(found)


def record_files(folder: Path) -> list[Path]:
    """Files of records below `folder`, or `folder` if it is one."""
    if folder.is_file():
        return [folder] if folder.suffix in (".zip", ".json") else []
    found: list[Path] = []
    # Not by `glob`, which fails where a run beside this takes a folder away.
    for place, below, names in os.walk(folder):
        below[:] = [name for name in below if name != RERUNS]
        # Stages and the bench keep JSON files of their own.
        suffixes = (".zip", ".json") if Path(place).name == "runs" else (".zip",)
        found += [Path(place, name) for name in names if name.endswith(suffixes)]
    return sorted(found)


def concat(parts: Sequence[Records]) -> Records:
    """Several Records as one; a pipeline's seed of one run that several of them hold is the first one's."""
    if len(parts) == 1:
        return parts[0]
    return Records(**{name: _joined([getattr(part, name) for part in parts]) for name in COLUMNS})


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    full = [table for table in tables if len(table)]
    if not full:
        return tables[0]
    if "pipeline" not in full[0]:
        return pd.concat(full).drop_duplicates(ignore_index=True)
    whole = pd.concat(full, keys=range(len(full)))
    part = pd.Series(whole.index.get_level_values(0), whole.index)
    first = part.groupby([whole[key] for key in ("run", "seed", "pipeline")]).transform("min")
    return whole[part == first].reset_index(drop=True)


def pack(records: Records, path: Path) -> Path:
    """One zip of Parquet tables, written aside and moved into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".writing")
    with zipfile.ZipFile(scratch, "w") as archive:
        archive.writestr("schema.json", json.dumps({"schema": SCHEMA, "columns": COLUMNS}))
        for name in COLUMNS:
            buffer = io.BytesIO()
            getattr(records, name).to_parquet(buffer, index=False, compression="zstd", compression_level=19)
            archive.writestr(f"{name}.parquet", buffer.getvalue())
    os.replace(scratch, path)
    return path


def _unpack(path: Path) -> Records:
    way_out = "copy it from where it came from, or remove it"
    kinds = OSError, KeyError, zipfile.BadZipFile, ValueError
    with (
        refusing(f"{path}: no packed records", *kinds, way_out=way_out, kind=RecordError),
        zipfile.ZipFile(path) as archive,
    ):
        schema = json.loads(archive.read("schema.json"))["schema"]
        if schema != SCHEMA:
            raise RecordError(f"{path}: schema {schema}, and this version reads {SCHEMA}: run it again")
        tables = {name: pd.read_parquet(io.BytesIO(archive.read(f"{name}.parquet"))) for name in COLUMNS}
    return Records(**tables)


# From JSON to tables ----------------------------------------------------------------------------------


def tabulate(records: Iterable[dict], study: str = "") -> Records:
    """Tables from records of single seeds; the runs of a study are never pooled with others of the same settings."""
    rows: dict[str, list] = {name: [] for name in COLUMNS}
    for record in records:
        run, seed = f"{study}/{run_key(record)}".lstrip("/"), record["seed"]
        head = {name: record[name] for name in ("world", "preset", "algorithm", "target", "device")}
        settings = json.dumps(full_settings(record["world"], record["settings"]), sort_keys=True)
        rows["runs"].append({"run": run, **head, "settings": settings})
        rows["provenance"].append(_provenance_row(run, record))
        told: set[str] = set()
        for pipeline, entry in record["pipelines"].items():
            arm, arm_value = entry.get("arm", ("", ""))
            own = {"study": study, **head, "run": run, "arm": arm, "arm_value": arm_value}
            place = {"run": run, "seed": seed, "pipeline": pipeline}
            counts = {COUNTS[name]: value for name, value in entry.get("counts", {}).items()}
            for metric, value in {**entry["metrics"], **counts}.items():
                number = math.nan if value is None else float(value)
                rows["metrics"].append({**own, "pipeline": pipeline, "seed": seed, "metric": metric, "value": number})
            for at, key in enumerate(entry["stages"]):
                stage = record["stages"][key]
                rows["stages"].append({**place, "place": at, **_stage_row(stage)})
                # A stage that several pipelines share tells its curves once: of the pipeline that ends in it.
                ends = [name for name, other in record["pipelines"].items() if other["stages"][-1:] == [key]]
                if key not in told and pipeline == (ends or [pipeline])[0]:
                    told.add(key)
                    rows["curves"] += [{**place, "stage": stage["name"], **row} for row in _curve_rows(stage["info"])]
            rows["responses"] += [{**place, **shown} for shown in entry.get("samples", ())]
            rows["mixtures"] += [{**place, **row} for row in _mixture_rows(entry.get("view"))]
    tables = {name: pd.DataFrame(found) for name, found in rows.items()}
    tables = {name: t.reindex(columns=list(dict.fromkeys([*COLUMNS[name].split(), *t]))) for name, t in tables.items()}
    tables["runs"] = tables["runs"].drop_duplicates("run", ignore_index=True)
    return Records(**tables)


def _provenance_row(run: str, record: dict) -> dict:
    made = record["provenance"]
    plain = {name: value for name, value in made.items() if not isinstance(value, dict)}
    nested = {name: json.dumps(value) for name, value in made.items() if isinstance(value, dict)}
    earlier = json.dumps(record["earlier"]) if record.get("earlier") else None
    return {"run": run, "seed": record["seed"], **plain, **nested, **record.get("checks", {}), "earlier": earlier}


def _stage_row(stage: dict) -> dict:
    info = stage["info"]
    counts = {name: value for name, value in info.items() if isinstance(value, int | float | str)}
    trials = {"trials": json.dumps(info["trials"])} if info.get("trials") else {}
    head = {"stage": stage["name"], "kind": stage["kind"]}
    tokens = {kind: (stage.get("tokens") or {}).get(kind) for kind in ("sampled", "trained", "scored")}
    cost = {name: stage.get(name) for name in ("seconds", "peak_memory_bytes")}
    return {**head, **cost, **tokens, **counts, **trials}


def _curve_rows(info: dict) -> Iterator[dict]:
    for name, values in info.items():
        if name == "trials" or not isinstance(values, list):
            continue
        for step, value in enumerate(values, 1):
            if isinstance(value, dict):
                for curve, number in value.items():
                    if curve != "step" and number is not None:
                        yield {"curve": curve, "step": value["step"], "value": number}
            elif value is not None:
                yield {"curve": {"losses": "loss", "rewards": "step_reward", "kl": "step_kl"}.get(name, name),
                       "step": step, "value": value}  # fmt: skip


def _mixture_rows(view: dict | None) -> Iterator[dict]:
    columns = zip(view["weights"], view["means"], view["sds"], strict=True) if view else ()
    for component, (weight, (x, y), (sd_x, sd_y)) in enumerate(columns):
        yield {"component": component, "weight": weight, "x": x, "y": y, "sd_x": sd_x, "sd_y": sd_y}
