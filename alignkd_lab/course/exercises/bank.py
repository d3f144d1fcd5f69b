"""Every prediction and exercise of the course, by name: a notebook's are asked in `chNN.yaml` and solved in `chNN.py`.

In the YAML, `predict` or `ask` is the question; all else are fields of `Task` or `Written`, where a text in place of a
function or a mapping names what stands in the module. A solution is an ordinary function named after its question (or
after `solve`, in `nano`) that imports what it needs: learners read its source, tests run it, and `check` compares with
what it returns. Where an outcome was measured, it is read from the recorded runs, so it changes with them.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from alignkd_lab import nano
from alignkd_lab.course.exercises.tasks import Task
from alignkd_lab.course.exercises.write import Written
from alignkd_lab.errors import UnknownName

NAMED = ("given", "inputs", "seen", "options", "mistakes")  # what may be named instead of written


def _made(id: str, asked: dict[str, Any], notebook: str, module: Any) -> Task | Written:
    named = {field: getattr(module, asked[field]) for field in NAMED if isinstance(asked.get(field), str)}
    solve = getattr(nano if hasattr(nano, solver := asked.pop("solve", id)) else module, solver)
    prediction = "predict" in asked
    question = asked.pop("predict" if prediction else "ask")
    kind = Written if "inputs" in asked else Task
    return kind(**asked | named, question=question, prediction=prediction, solve=solve, notebook=notebook)


TASKS: dict[str, Task | Written] = {
    id: _made(id, asked, path.stem.removeprefix("ch"), import_module(f"{__package__}.{path.stem}"))
    for path in sorted(Path(__file__).parent.glob("ch*.yaml"))
    for id, asked in yaml.safe_load(path.read_text(encoding="utf-8")).items()
}


def task(id: str) -> Task | Written:
    """The prediction or exercise of this name. Raises UnknownName."""
    if id not in TASKS:
        raise UnknownName("exercise", id, TASKS)
    return TASKS[id]
