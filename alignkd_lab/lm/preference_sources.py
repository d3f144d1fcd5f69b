"""Where preference pairs come from: numbered rows of a set of the hub, a file or a `datasets.Dataset`.

Left out: sets of the hub with several configurations, and files of other kinds, which `datasets` opens.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from alignkd_lab.errors import BadInput, CannotContinue, first_line
from alignkd_lab.store import file_sha256

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet", ".csv")
_ROWS = 1000  # of a table that are objects at one time


class Known(NamedTuple):
    """A set of the hub that goes by its name alone: the commit it is pinned to, and what is said before a download."""

    revision: str
    licence: str
    megabytes: int
    mapping: str


KNOWN = {
    "argilla/dpo-mix-7k": Known(
        "f8869fc91bde5c71a104667292addcbbfd15985d",
        "MIT",
        24,
        "chosen and rejected are conversations, the turns that they share are the prompt",
    ),
    "nvidia/HelpSteer2": Known(
        "990b2711a36180dd19d9c94b8627844866f8982a",
        "CC-BY-4.0",
        12,
        "two rows to a prompt, the response of higher helpfulness is chosen, ties are skipped",
    ),
}


def open_source(source, split: str | None, revision: str | None) -> tuple[Iterator[tuple[int, object]], dict]:
    """Numbered rows of a source as they come, and its provenance."""
    if not isinstance(source, str | os.PathLike):
        return _from_dataset(source, split, revision)
    path = Path(source)
    if path.name.endswith(SUFFIXES):
        _no_hub_options(str(source), split, revision)
        if not path.is_file():
            raise BadInput(f"preferences: there is no file {source}")
        provenance = {"source": path.name, "split": None, "version": f"sha256:{file_sha256(path)}", "licence": None}
        return _file_rows(path), provenance
    if (path / "dataset_info.json").is_file():
        return _from_folder(path, split, revision)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)) and not path.exists():
        return _from_hub(str(source), split or "train", revision)
    raise BadInput(
        f"preferences: unknown source {str(source)!r}; use one of {', '.join(KNOWN)}, another id of the hub, "
        f"a file that ends in {', '.join(SUFFIXES)}, a folder of save_to_disk, or a datasets.Dataset"
    )


def _no_hub_options(name: str, split: str | None, revision: str | None) -> None:
    for option, value in (("split", split), ("revision", revision)):
        if value is not None:
            raise BadInput(f"{option}: {value!r} is for sets of the hub; leave it out for {name}")


def _from_dataset(source, split: str | None, revision: str | None) -> tuple[Iterator, dict]:
    import datasets

    if isinstance(source, datasets.DatasetDict):
        raise BadInput(f"preferences: this is a DatasetDict; pass one of its splits: {', '.join(source)}")
    if not isinstance(source, datasets.Dataset):
        raise BadInput(f"preferences: a {type(source).__name__} is no name, file or datasets.Dataset")
    _no_hub_options("a datasets.Dataset", split, revision)
    licence = source.info.license or None
    return enumerate(source, 1), {
        "source": "datasets.Dataset",
        "split": str(source.split) if source.split else None,
        "version": None,  # known once the pairs are read
        "licence": licence,
    }


def _from_folder(path: Path, split: str | None, revision: str | None) -> tuple[Iterator, dict]:
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:
        raise BadInput(f"preferences: datasets cannot load {path.name} ({error})") from error
    rows, provenance = _from_dataset(data, split, revision)
    return rows, {**provenance, "source": path.name}


def _from_hub(name: str, split: str, revision: str | None) -> tuple[Iterator, dict]:
    known = KNOWN.get(name)
    revision = revision or (known.revision if known else "")
    if not re.fullmatch("[0-9a-f]{40}", revision):  # a branch or tag may move
        raise BadInput(
            f"preferences: {name} needs a pinned revision, the 40 hex digits of a commit, and has {revision!r}; "
            "the page of the data set lists its commits under 'Files and versions'"
        )
    if known:
        about = f"{known.megabytes} MB unless cached, {known.licence}; {known.mapping}"
    else:
        about = "see its page for size and licence; fields as TRL names them"
    print(f"Loading {name} at {revision[:8]} from the hub: {about}", file=sys.stderr)
    import datasets

    try:
        data = datasets.load_dataset(name, split=split, revision=revision)
    except Exception as error:
        raise CannotContinue(
            f"preferences: the hub did not give the split {split!r} of {name} at {revision[:8]} "
            f"({type(error).__name__}: {first_line(error)}). Check name, split and network, or fetch a file elsewhere "
            "and load that"
        ) from error
    licence = known.licence if known else data.info.license or None
    provenance = {"source": name, "split": split, "version": f"revision:{revision}", "licence": licence}
    return enumerate(data, 1), provenance


def _file_rows(path: Path) -> Iterator[tuple[int, object]]:
    try:
        if path.suffix == ".parquet":
            yield from _parquet_rows(path)
            return
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig", newline="" if path.suffix == ".csv" else None) as file:
            if path.suffix == ".csv":
                yield from enumerate(csv.DictReader(file, strict=True), 1)
            elif ".jsonl" in path.suffixes:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, _parse(line, path, number)
            else:
                rows = _parse(file.read(), path)
                if not isinstance(rows, list):
                    raise BadInput(f"preferences: {path.name} holds no list of rows; one object a line goes in .jsonl")
                yield from enumerate(rows, 1)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise BadInput(f"preferences: {path.name} cannot be read as {path.suffix} in UTF-8 ({error})") from error


def _parquet_rows(path: Path) -> Iterator[tuple[int, object]]:
    try:
        # pyarrow's own types, since numpy's would turn lists into arrays and a missing text into a number.
        frame = pd.read_parquet(path, dtype_backend="pyarrow")
    except ValueError as error:
        raise BadInput(f"preferences: {path.name} cannot be read as Parquet ({error})") from error
    parts = (frame.iloc[start : start + _ROWS] for start in range(0, len(frame), _ROWS))
    yield from enumerate((row for part in parts for row in part.to_dict("records")), 1)


def _parse(text: str, path: Path, line: int | None = None) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {line or error.lineno}, column {error.colno}"
        raise BadInput(f"preferences: {path.name} is wrong JSON at {where}: {error.msg}") from error
