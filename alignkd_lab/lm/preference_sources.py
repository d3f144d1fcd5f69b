"""Where pairs and prompts come from: numbered rows of a set of the hub, a file or a `datasets.Dataset`.

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

from alignkd_lab.errors import BadInput, CannotContinue, refusing
from alignkd_lab.store import file_sha256

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet", ".csv")
_ROWS = 1000  # of a table that are read at one time


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


def open_source(source, field: str = "preferences", split: str | None = None) -> tuple[Iterator, dict]:
    """Numbered rows of a source as they come (of a `.txt` its lines), and its provenance; errors call it `field`."""
    named = isinstance(source, str | os.PathLike)
    path = Path(source if named else "")
    is_file = path.name.endswith((*SUFFIXES, ".txt"))
    hub = re.fullmatch(r"([\w-][\w.-]*/[\w.-]+)(?:@(.*))?", str(source)) if named and not path.exists() else None
    if hub and not is_file:
        return _from_hub(hub[1], hub[2], field, split or "train")
    if split is not None:
        name = source if named else "a datasets.Dataset"
        raise BadInput(f"split: {split!r} is for sets of the hub; leave it out for {name}")
    if not named:
        return _from_dataset(source, field)
    if is_file:
        if not path.is_file():
            raise BadInput(f"{field}: there is no file {source}")
        provenance = {"source": path.name, "split": None, "version": f"sha256:{file_sha256(path)}", "licence": None}
        return _file_rows(path, field), provenance
    if any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        import datasets

        with refusing(f"{field}: datasets cannot load {path.name}", Exception):
            return _from_dataset(datasets.load_from_disk(str(path)), field, path.name)
    raise BadInput(
        f"{field}: unknown source {str(source)!r}; use one of {', '.join(KNOWN)}, another id@commit of the hub, "
        f"a file that ends in {', '.join(SUFFIXES)}, a folder of save_to_disk, or a datasets.Dataset"
    )


def _from_dataset(data, field: str, name: str = "datasets.Dataset") -> tuple[Iterator, dict]:
    import datasets

    if isinstance(data, datasets.DatasetDict):
        raise BadInput(f"{field}: {name} is a DatasetDict; give one of its splits: {', '.join(data)}")
    if not isinstance(data, datasets.Dataset):
        raise BadInput(f"{field}: a {type(data).__name__} is no name, file or datasets.Dataset; make it one")
    split = str(data.split) if data.split else None
    # Its version is known once its rows are read.
    return enumerate(data, 1), {"source": name, "split": split, "version": None, "licence": data.info.license or None}


def _from_hub(name: str, revision: str | None, field: str, split: str) -> tuple[Iterator, dict]:
    known = KNOWN.get(name)
    revision = revision or (known.revision if known else "")
    if not re.fullmatch("[0-9a-f]{40}", revision):  # a branch or tag may move
        raise BadInput(
            f"{field}: there is no file or folder {name}, and a set of the hub needs a pinned revision, @ and the 40 "
            f"hex digits of a commit, not {revision!r}; its page lists its commits under 'Files and versions'"
        )
    if known:
        about = f"{known.megabytes} MB unless cached, {known.licence}; {known.mapping}"
    else:
        about = "see its page for size and licence; fields as TRL names them"
    print(f"Loading {name} at {revision[:8]} from the hub: {about}", file=sys.stderr)
    import datasets

    what = f"{field}: the hub did not give the split {split!r} of {name} at {revision[:8]}"
    way_out = "check name, split and network, or fetch a file elsewhere and load that"
    with refusing(what, Exception, way_out=way_out, kind=CannotContinue):
        data = datasets.load_dataset(name, split=split, revision=revision)
    licence = known.licence if known else data.info.license or None
    provenance = {"source": name, "split": split, "version": f"revision:{revision}", "licence": licence}
    return enumerate(data, 1), provenance


def _file_rows(path: Path, field: str) -> Iterator[tuple[int, object]]:
    kind = path.suffix if path.suffix == ".parquet" else f"{path.suffix} in UTF-8"
    kinds = OSError, EOFError, ValueError, RecursionError, zlib.error, csv.Error
    with refusing(f"{field}: {path.name} cannot be read as {kind}", *kinds):
        if path.suffix == ".parquet":
            yield from enumerate(_parquet_rows(path), 1)
            return
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig", newline="" if path.suffix == ".csv" else None) as file:
            if path.suffix == ".csv":
                yield from enumerate(_csv_rows(file), 1)
            elif path.suffix == ".txt" or ".jsonl" in path.suffixes:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, line.rstrip("\n") if path.suffix == ".txt" else _parse(line, path, field, number)
            else:
                rows = _parse(file.read(), path, field)
                if not isinstance(rows, list):
                    raise BadInput(f"{field}: {path.name} holds no list of rows; one object a line goes in .jsonl")
                yield from enumerate(rows, 1)


def _parquet_rows(path: Path) -> Iterator[dict]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS):
            yield from batch.to_pylist()


def _csv_rows(file) -> Iterator[dict]:
    csv.field_size_limit(2**31 - 1)  # of a cell; the library's own is 128 KiB
    reader = csv.DictReader(file, strict=True)
    names = [name for name in reader.fieldnames or () if name]
    if len(set(names)) < len(names):
        raise ValueError("its header names a column twice")
    for row in reader:
        if any(row.pop(None, ())):
            raise ValueError(f"line {reader.line_num} has more cells than the header; quote a text that holds a comma")
        yield row


def _parse(text: str, path: Path, field: str, line: int | None = None) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {line or error.lineno}, column {error.colno}"
        way_out = "" if line else "; one object a line goes in .jsonl"
        raise BadInput(f"{field}: {path.name} is wrong JSON at {where}: {error.msg}{way_out}") from error
