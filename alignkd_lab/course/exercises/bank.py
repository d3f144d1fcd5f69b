"""Every prediction and exercise of the course, by name; each notebook's stand in the module named after it.

A solution is an ordinary function that imports what it needs: learners read its source, tests run it, and
`check` compares with what it returns. Wrong answers are computed like right ones. Where an outcome was
measured, it is read from the recorded runs and the shipped student, so it changes with them.
"""

from __future__ import annotations

from alignkd_lab.course.exercises import ch00 as start_here
from alignkd_lab.course.exercises import ch01 as recall_and_the_reference
from alignkd_lab.course.exercises import ch02 as distillation_trades_recall_for_precision
from alignkd_lab.course.exercises import ch03 as both_orders_on_gaussians
from alignkd_lab.course.exercises import ch04 as preferences_and_dpo
from alignkd_lab.course.exercises import ch05 as distilling_language_models
from alignkd_lab.course.exercises import ch06 as advantage_guided_distillation
from alignkd_lab.course.exercises import ch07 as both_orders_on_smollm2
from alignkd_lab.course.exercises import ch08 as small_models_from_big_teachers
from alignkd_lab.course.exercises import ch09 as your_model_your_data
from alignkd_lab.course.exercises.tasks import Task

NOTEBOOKS = (
    start_here,
    recall_and_the_reference,
    distillation_trades_recall_for_precision,
    both_orders_on_gaussians,
    preferences_and_dpo,
    distilling_language_models,
    advantage_guided_distillation,
    both_orders_on_smollm2,
    small_models_from_big_teachers,
    your_model_your_data,
)

TASKS: dict[str, Task] = {id: task for notebook in NOTEBOOKS for id, task in notebook.TASKS.items()}
