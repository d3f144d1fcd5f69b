"""While nbval runs a notebook, what must hold after a cell is asserted behind it: tests/notebook_checks/NN.py."""

import os
import sys
from collections import defaultdict
from pathlib import Path

from nbformat.v4 import new_code_cell

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from notebook_checks import sections

if "PYTEST_XDIST_WORKER" in os.environ:  # with a kernel for each core, more threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    items[:] = [each for item in items for each in (item, *_check(item))]


def _check(item):
    found = sections(item.path).get(item.cell.id) if hasattr(item, "cell") else None
    if found:
        # On a copy of the notebook's names: no later cell may need what only a check has made.
        source = f"exec(compile({found.code!r}, {str(found.path)!r}, 'exec'), {{**globals()}})"
        cell, name = new_code_cell(source), f"after {item.cell.id}"
        options = defaultdict(bool)
        yield type(item).from_parent(item.parent, name=name, cell_num=item.cell_num, cell=cell, options=options)
