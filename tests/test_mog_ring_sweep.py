"""The ring over sharpening and size: the trade is made by students that are smaller than their teacher."""

import pytest

from alignkd_lab.mog.ring import RingSettings, run_ring, run_sweep


@pytest.fixture(scope="module")
def sweep():
    return run_sweep(range(20), components=(1, 8), sharpenings=(1.0, 8.0, 100.0))


def test_a_gain_is_the_difference_of_the_two_students_of_one_run(sweep):
    scores = run_ring(range(20), RingSettings(student_components=8, sharpening=8.0)).scores["published"]
    expected = scores["distilled"]["precision"] - scores["direct"]["precision"]
    assert sweep.gain("precision", 8, 8.0, "published").tolist() == pytest.approx(expected.tolist())
    assert sweep.gains["true"]["recall"].shape == (2, 3, 20)


def test_without_sharpening_a_small_student_is_as_good_as_the_direct_one(sweep):
    assert sweep.gain("precision", 1, 1.0).mean().abs() < 0.2
    assert sweep.gain("recall", 1, 1.0).mean().abs() < 0.05


def test_small_students_gain_precision_and_large_ones_lose_it_while_all_lose_recall(sweep):
    assert sweep.gain("precision", 1, 100.0).mean() > 3
    assert sweep.gain("precision", 8, 100.0).mean() < -1
    assert all(sweep.gain("recall", k, 100.0).mean() < -20 for k in (1, 8))


def test_with_the_sharpened_teacher_as_judge_all_seem_to_gain(sweep):
    assert all(sweep.gain("precision", k, 100.0, "published").mean() > 8 for k in (1, 8))


def test_a_student_as_large_as_its_teacher_has_nothing_to_gain():
    for teacher in (2, 4):
        found = run_sweep(range(20), RingSettings(teacher_components=teacher), (1, 2, 4), (100.0,))
        gains = {k: found.gain("precision", k, 100.0).mean() for k in found.components}
        assert found.settings.teacher_components == teacher
        assert all((gain > 0.5) == (k < teacher) for k, gain in gains.items())


def test_a_setting_that_was_not_run_is_no_gain(sweep):
    with pytest.raises(ValueError, match="not in"):
        sweep.gain("recall", 2, 100.0)
