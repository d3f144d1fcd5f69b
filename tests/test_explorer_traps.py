"""The traps: a handed policy ends at the optimum, one from the reference only where it draws the target."""

import numpy as np
import pytest

from alignkd_lab import theory
from alignkd_lab.course.explorers import traps as picture
from alignkd_lab.course.explorers.traps import SETTINGS, run_traps
from alignkd_lab.course.widgets.view import Picture

MASSES = (1e-1, 1e-2, 1e-3, 1e-5, 1e-6, 1e-9)
SAMPLED, UNDRAWN, UNPAID = slice(0, 3), slice(3, 5), 5


@pytest.fixture(scope="module")
def traps():
    return run_traps(MASSES, seeds=(0, 1))


def test_a_handed_policy_ends_at_the_optimum_on_either_side_of_the_threshold(traps):
    np.testing.assert_allclose(traps.handed.mean(-1), traps.optimum, atol=0.03)
    assert traps.optimum[UNPAID] < 0.01
    assert (traps.handed[UNPAID] < 0.03).all()


def test_from_the_reference_a_target_is_learnt_where_it_is_drawn_and_not_where_it_would_only_pay(traps):
    assert (traps.from_reference[SAMPLED] > 0.95).all()
    assert (traps.optimum[UNDRAWN] > 0.5).all()
    assert (traps.from_reference[UNDRAWN] < 0.01).all()


def test_the_bump_s_threshold_lies_above_that_of_a_step_of_its_height(traps):
    step = theory.target_mass(traps.masses, SETTINGS.reward_height, SETTINGS.beta)
    assert (traps.optimum < step).all()
    assert traps.draws == SETTINGS.rlhf_steps * SETTINGS.rlhf_batch


def test_the_picture_names_both_traps_where_they_begin(traps):
    assert picture.boundaries(traps) == pytest.approx((1e-3, 1e-6))
    words = picture.caption(traps)
    assert "down to a share of 1 in 1,000,000" in words
    assert "down to 0.1 % only" in words
    figure = picture.draw(traps)
    written = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "sampling trap" in written
    assert "learning trap" in written
    assert "Live run" in figure.get_supxlabel()
    assert Picture(figure, words).png


def test_runs_are_the_same_every_time():
    first, second = (run_traps((1e-2,), seeds=(3,)) for _ in range(2))
    assert first.handed.tolist() == second.handed.tolist()
