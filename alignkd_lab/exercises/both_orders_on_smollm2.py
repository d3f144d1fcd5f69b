"""Tasks of notebook 07, with their solutions and the slips that lead to typical wrong answers."""

from __future__ import annotations

from alignkd_lab.exercises.tasks import Task

TASKS: dict[str, Task] = {}
