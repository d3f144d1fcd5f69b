"""Execute notebooks in place and save them so that they read well without a kernel.

`python -m alignkd_lab.course.notebooks notebooks/*.ipynb`. Widget state is left out, because a page that holds it
is shown broken by viewers without a kernel; the picture that each explorer carries beside it stays. What
the outputs were made from is kept as hashes in the metadata, so that a test can tell when they are stale.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from alignkd_lab.paths import data_folder

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
METADATA = "alignkd_lab"


def fingerprint(notebook, records: Path | None = None) -> dict:
    """`{"cells": hash of the code cells, "records": {file: hash}}`: what saved outputs were made from.

    All records count (those of the project where `records` is None): a page may show any of them.
    """
    folder = data_folder() / "records" if records is None else records
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.json*"))}
    return {"cells": _hash(code.encode()), "records": {name: _hash(path.read_bytes()) for name, path in files.items()}}


def without_widgets(notebook):
    """Remove widget views that have another representation, and all widget state, in place; returns it."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if len(data) > 1:
                data.pop(WIDGET_VIEW, None)
    return notebook


def without_home(notebook):
    """Write `~` for the user's home folder in printed text, in place; returns it."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "text" in output:
                output.text = output.text.replace(str(Path.home()), "~")
    return notebook


def execute(path: Path) -> None:
    """Run a notebook from its own folder with this Python and save it; if a cell fails, nothing is saved."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=None,
        store_widget_state=False,
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    made_from = fingerprint(notebook)
    client.execute()
    notebook.metadata[METADATA] = made_from
    nbformat.write(without_home(without_widgets(notebook)), path)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def main(paths: Sequence[str]) -> None:
    for path in paths:
        print(f"Executing {path}", flush=True)
        execute(Path(path))


if __name__ == "__main__":
    main(sys.argv[1:])
