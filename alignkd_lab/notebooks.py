"""Execute notebooks in place and save them so that they read well without a kernel.

`python -m alignkd_lab.notebooks notebooks/*.ipynb`. Widget state is left out, because a page that holds it
is shown broken by viewers without a kernel; the picture that each explorer carries beside it stays.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


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
    client.execute()
    nbformat.write(without_widgets(notebook), path)


def main(paths: Sequence[str]) -> None:
    for path in paths:
        print(f"Executing {path}", flush=True)
        execute(Path(path))


if __name__ == "__main__":
    main(sys.argv[1:])
