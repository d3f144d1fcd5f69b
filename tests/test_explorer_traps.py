"""The traps: a handed policy ends at the optimum, one from the reference only where it draws the target."""

import numpy as np
import pytest
from scene import Scene, value

from alignkd_lab import theory
from alignkd_lab.course.explorers import traps as picture
from alignkd_lab.course.explorers.traps import SETTINGS, run_traps

MASSES = (1e-1, 1e-2, 1e-3, 1e-5, 1e-6, 1e-9)
SAMPLED, UNDRAWN, UNPAID = slice(0, 3), slice(3, 5), 5


@pytest.fixture(scope="module")
def traps():
    return run_traps(MASSES, seeds=(0, 1))


def test_a_handed_policy_ends_at_the_optimum_and_from_the_reference_a_target_is_learnt_where_it_is_drawn(traps):
    np.testing.assert_allclose(traps.handed[-1].mean(-1), traps.optimum, atol=0.03)
    assert traps.optimum[UNPAID] < 0.01
    assert (traps.handed[-1, UNPAID] < 0.03).all()
    assert (traps.from_reference[-1, SAMPLED] > 0.95).all()
    assert (traps.optimum[UNDRAWN] > 0.5).all()
    assert (traps.from_reference[-1, UNDRAWN] < 0.01).all()


def test_the_bump_s_threshold_lies_above_that_of_a_step_and_both_traps_begin_where_runs_do_not_learn(traps):
    step = theory.target_mass(traps.masses, SETTINGS.reward_height, SETTINGS.beta)
    assert (traps.optimum < step).all()
    assert picture.boundaries(traps) == pytest.approx((1e-3, 1e-6))


def test_runs_begin_at_their_start_and_are_looked_at_where_the_slider_stops(traps):
    # On target is what earns at least half of the reward, all but the mode's tails.
    hits = 1 - 0.5 ** (SETTINGS.reward_width / SETTINGS.truth_sd) ** 2
    np.testing.assert_allclose(traps.handed[0], 0.5 * hits, atol=0.03)
    np.testing.assert_allclose(traps.from_reference[0], traps.masses[:, None].expand(-1, 2), atol=0.02)
    slider = next(p["bind"] for p in picture.draw(traps).spec["params"] if "bind" in p)
    assert traps.steps == tuple(range(slider["min"], slider["max"] + 1, slider["step"]))
    assert slider["max"] == SETTINGS.rlhf_steps
    assert len(traps.handed) == len(traps.from_reference) == len(traps.steps)


@pytest.mark.parametrize("step", [0, 20, 200])
def test_each_seed_is_drawn_where_its_run_stands_at_a_step(traps, step):
    scene = Scene(picture.draw(traps, step=step))
    (markers,) = [marks for marks in scene.places("symbol") if len(marks) == 4 * len(MASSES) and "stroke" in marks[0]]
    found = sorted((value(m["x"], 760, 1e-9 / 1.6, 0.16, True), value(330 - m["y"], 330, 0, 1.3)) for m in markers)
    at = traps.steps.index(step)
    runs = [run[at].tolist() for run in (traps.handed, traps.from_reference)]
    expected = sorted(
        (mass * 10**aside, share)
        for run in runs
        for mass, shares in zip(MASSES, run, strict=True)
        for aside, share in zip((-0.055, 0.055), shares, strict=True)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
