"""Still pictures of notebook 02: their words and marks are the numbers; its tasks."""

import pytest

from alignkd_lab.course.exercises.ask import given
from alignkd_lab.course.exercises.bank import TASKS
from alignkd_lab.course.explorers import ring_pictures
from alignkd_lab.mog.ring import PUBLISHED, run_ring, run_sweep


def test_the_sweep_draws_a_line_for_every_size_in_three_panels():
    sweep = run_sweep(range(3), components=range(1, 8), sharpenings=(1.0, 100.0))
    panels = ("true", "precision"), ("published", "precision"), ("true", "recall")
    for axis, (scoring, metric) in zip(ring_pictures._sweep(sweep).axes, panels, strict=True):
        assert len(axis.collections) == 7  # bands
        lines = [line for line in axis.lines if line.get_label().isdecimal()]
        for line, k in zip(lines, sweep.components, strict=True):
            assert line.get_ydata()[-1] == pytest.approx(sweep.gain(metric, k, 100.0, scoring).mean().item())


def test_the_data_of_the_task_come_near_the_published_figures_and_its_outcome_is_the_ring_s_own():
    data = given("rescored_precision")
    sharpened = data["teacher"].sharpen(100)
    for student, figures in PUBLISHED.items():
        precision = sharpened.log_prob(data[f"{student}_draws"]).mean().item()
        assert precision == pytest.approx(figures["precision"], abs=0.3)
    scores = run_ring((15,)).scores["true"]
    assert TASKS["rescored_precision"].outcome() == pytest.approx(
        [scores[student]["precision"].item() for student in ("direct", "distilled")]
    )
