"""Every prediction and exercise of the course, by name; each notebook's stand in the module named after it.

A solution is an ordinary function that imports what it needs: learners read its source, tests run it, and
`check` compares with what it returns. Wrong answers are computed like right ones. Where an outcome was
measured, it is read from the recorded runs and the shipped student, so it changes with them.
"""

from __future__ import annotations

from alignkd_lab.exercises import (
    advantage_guided_distillation,
    both_orders_on_gaussians,
    both_orders_on_smollm2,
    distillation_trades_recall_for_precision,
    distilling_language_models,
    preferences_and_dpo,
    recall_and_the_reference,
    small_models_from_big_teachers,
    start_here,
    your_model_your_data,
)
from alignkd_lab.exercises.tasks import Task

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
