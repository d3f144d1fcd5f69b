"""Records of arrays as runs: what `alignkd reproduce` chooses a cell from."""

from __future__ import annotations

from pathlib import Path

from alignkd_lab.errors import BadInput
from alignkd_lab.mog import border, study


def array_runs(path: Path) -> list[dict]:
    """Every cell of a study, a map or a border sweep once, as `runs.group_runs` gives runs.

    Raises:
        BadInput: no such file, another version's, or a file that holds no runs.
    """
    held = border.read(path, "alignkd_lab.mog.study")
    if "grid" in held:
        return list(border.runs(border.load(path)))
    if "cells" in held:
        return study.load(path).distinct()
    raise BadInput(f"{path} holds no runs: give a file of `alignkd run` (`.jsonl`), of `mog.study` or of `mog.border`")
