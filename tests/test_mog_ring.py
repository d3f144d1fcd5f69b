"""World "ring" against the published figures of KD-MWE and against scikit-learn on the same draws."""

import math

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture as SklearnMixture

from alignkd_lab.mog.ring import PUBLISHED, RingSettings, run_ring, run_sweep


@pytest.fixture(scope="module")
def ring():
    return run_ring(range(200))


@pytest.mark.parametrize("student", ["direct", "distilled"])
@pytest.mark.parametrize("metric", ["precision", "recall"])
def test_each_published_figure_lies_within_our_central_98_percent(ring, student, metric):
    ours = ring.scores["published"][student][metric].numpy()
    low, high = np.quantile(ours, [0.01, 0.99])
    assert low <= PUBLISHED[student][metric] <= high


def test_the_teacher_is_as_likely_as_scikit_learns_from_one_start_and_sharpened_keeps_mostly_one_component(ring):
    ours = ring.teacher.log_prob(ring.training_draws).mean(-1)
    oracle = [
        SklearnMixture(4, covariance_type="diag", max_iter=1000, random_state=0).fit(draws).score(draws)
        for draws in ring.training_draws[:60].numpy()
    ]
    assert ours.mean().item() == pytest.approx(np.mean(oracle), abs=0.05)
    assert ring.sharpened.weights.amax(-1).mean() > 0.9


def test_a_gain_is_the_difference_of_the_two_students_of_one_run_and_of_no_run_there_is_none():
    sweep = run_sweep(range(3), components=(1, 8), sharpenings=(1.0, 8.0))
    scores = run_ring(range(3), RingSettings(student_components=8, sharpening=8.0)).scores["published"]
    expected = scores["distilled"]["precision"] - scores["direct"]["precision"]
    assert sweep.gain("precision", 8, 8.0, "published").tolist() == pytest.approx(expected.tolist())
    assert sweep.gains["true"]["recall"].shape == (2, 2, 3)
    with pytest.raises(ValueError, match="not in"):
        sweep.gain("recall", 2, 8.0)
    for wrong in ({"sharpening": 0.0}, {"sharpening": math.inf}, {"training_draws": 2.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RingSettings(**wrong)


def test_without_sharpening_a_small_student_is_as_good_as_the_direct_one():
    sweep = run_sweep(range(20), components=(1,), sharpenings=(1.0,))
    assert sweep.gain("precision", 1, 1.0).mean().abs() < 0.2
    assert sweep.gain("recall", 1, 1.0).mean().abs() < 0.05
