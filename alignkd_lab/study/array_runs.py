"""Records of arrays as runs: what `alignkd reproduce` chooses a cell from."""

from __future__ import annotations

from pathlib import Path

from alignkd_lab.errors import BadInput
from alignkd_lab.study import boundary as boundary
from alignkd_lab.study import gaussians as study


def array_runs(path: Path) -> list[dict]:
    """Every cell of a study, a map or a boundary sweep once, as `runs.group_runs` gives runs.

    Raises:
        BadInput: no such file, another version's, or a file that holds no runs.
    """
    held = boundary.read(path, "alignkd_lab.study.gaussians")
    if "grid" in held:
        return list(boundary.runs(boundary.load(path)))
    if "cells" in held:
        return study.load(path).distinct()
    raise BadInput(
        f"{path} holds no runs: give a file of `alignkd run` (`.jsonl`), of `study.gaussians` or of `study.boundary`"
    )
