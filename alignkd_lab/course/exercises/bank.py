"""Every prediction and exercise of the course, by name; each notebook's stand in the module named after it.

A solution is an ordinary function that imports what it needs: learners read its source, tests run it, and
`check` compares with what it returns. Wrong answers are computed like right ones. Where an outcome was
measured, it is read from the recorded runs and the shipped student, so it changes with them.
"""

from __future__ import annotations

from dataclasses import replace

from alignkd_lab.course.exercises import ch00, ch01, ch02, ch03, ch04, ch05, ch06, ch07, ch08, ch09
from alignkd_lab.course.exercises.tasks import Task
from alignkd_lab.course.exercises.write import Written
from alignkd_lab.errors import UnknownName

NOTEBOOKS = (ch00, ch01, ch02, ch03, ch04, ch05, ch06, ch07, ch08, ch09)
TASKS: dict[str, Task | Written] = {
    id: replace(task, notebook=f"{number:02d}")
    for number, notebook in enumerate(NOTEBOOKS)
    for id, task in notebook.TASKS.items()
}


def task(id: str) -> Task | Written:
    """The prediction or exercise of this name. Raises UnknownName."""
    if id not in TASKS:
        raise UnknownName("exercise", id, TASKS)
    return TASKS[id]
