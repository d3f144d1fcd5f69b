"""Execute notebooks in place and save them so that they read well without a kernel.

`python -m alignkd_lab.course.notebooks notebooks/*.ipynb`. Widget state is left out, because a page that holds it
is shown broken by viewers without a kernel; the picture that each explorer carries beside it stays. What the outputs
were made from, the cells and the records that they opened, is kept as hashes in the metadata, so that a test can tell
when they are stale.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from alignkd_lab.paths import data_folder

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
METADATA = "alignkd_lab"
ASKS = "<strong>Predict.</strong>"  # in the HTML of every prediction's question


def fingerprint(notebook, read: Iterable[str] | None = None) -> dict:
    """`{"cells": hash of the code cells, "records": {file: hash}}`: what saved outputs were made from.

    `read` names the files of records that were opened; None takes those that the notebook itself names. A file that is
    gone has no hash.
    """
    if read is None:
        read = notebook.metadata.get(METADATA, {}).get("records", ())
    files = {name: data_folder() / "records" / name for name in sorted(read)}
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    records = {name: _hash(path.read_bytes()) if path.is_file() else "" for name, path in files.items()}
    return {"cells": _hash(code.encode()), "records": records}


def note_reads(into: str) -> None:
    """Append the name of each file of records that this process opens from here on to a file, for `execute`."""
    folder, noted = str(data_folder() / "records") + os.sep, set()

    def opened(event: str, arguments: tuple) -> None:
        if event == "open" and (path := str(arguments[0])).startswith(folder) and path not in noted:
            noted.add(path)
            with open(into, "a", encoding="utf-8") as file:
                print(Path(path).relative_to(folder).as_posix(), file=file)

    sys.addaudithook(opened)


def without_widgets(notebook):
    """Remove widget views, outputs that show nothing else (such as progress bars), and all widget state, in place;
    returns it."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            shown = [output.get("data", {}) for output in cell.outputs]
            alone = [WIDGET_VIEW in data and set(data) <= {WIDGET_VIEW, "text/plain"} for data in shown]
            cell.outputs = [output for output, left_out in zip(cell.outputs, alone, strict=True) if not left_out]
            for data in shown:
                data.pop(WIDGET_VIEW, None)
    return notebook


def without_home(notebook):
    """Write `~` for the user's home folder in printed text, in place; returns it."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "text" in output:
                output.text = output.text.replace(str(Path.home()), "~")
    return notebook


def with_reveals_closed(notebook):
    """Close the outputs of cells that show what a prediction is about, in place; JupyterLab opens them with a run."""
    for cell in notebook.cells:
        asks = [ASKS in output.get("data", {}).get("text/html", "") for output in cell.get("outputs", [])]
        if any(asks) and not all(asks):
            cell.metadata["jupyter"] = {"outputs_hidden": True}
    return notebook


def execute(path: Path) -> None:
    """Run a notebook from its own folder with this Python and save it; if a cell fails, nothing is saved."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        read = Path(folder) / "read"
        read.touch()
        first = f"from {__spec__.name} import note_reads; note_reads({str(read)!r}); del note_reads"
        NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=None,
            store_widget_state=False,
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=[f"--IPKernelApp.exec_lines={first}"],
            resources={"metadata": {"path": str(path.parent)}},
        ).execute()
        notebook.metadata[METADATA] = fingerprint(notebook, read.read_text(encoding="utf-8").splitlines())
    nbformat.write(with_reveals_closed(without_home(without_widgets(notebook))), path)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    for path in sys.argv[1:]:
        print(f"Executing {path}", flush=True)
        execute(Path(path))
