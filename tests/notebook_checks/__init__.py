"""What must hold in a notebook: NN.py, in sections headed by `# after: <cell id>`; notebooks/conftest.py runs them."""

import re
from pathlib import Path
from typing import NamedTuple

HEADING = re.compile(r"^# after: (.+)\n", re.MULTILINE)


class Section(NamedTuple):
    path: Path
    code: str  # with as many empty lines before it as in the file, so that a traceback shows the right line


def sections(notebook: Path) -> dict[str, Section]:
    """What is asserted after each cell of a notebook, by the cell's id; of a notebook without a file, nothing."""
    path = Path(__file__).parent / f"{notebook.name[:2]}.py"
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    before, *parts = HEADING.split(text)
    found, line = {}, before.count("\n")
    for cell, code in zip(parts[::2], parts[1::2], strict=True):
        line += 1
        if cell in found:
            raise ValueError(f"{path.name}: two sections after {cell}")
        found[cell] = Section(path, "\n" * line + code)
        line += code.count("\n")
    return found
