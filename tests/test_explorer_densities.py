"""Densities that a reward tilts: on line and plane the target has the optimum's share; no reward changes a draw."""

import functools
import re

import numpy as np
import pytest
import torch
from scene import Scene, evaluated, value

from alignkd_lab import theory
from alignkd_lab.course.explorers import densities
from alignkd_lab.course.explorers.densities import CONTROLS, LINE_BOUNDARY, LINE_MEANS, LINE_SD, LINE_WEIGHTS
from alignkd_lab.course.widgets.pieces import POINT
from alignkd_lab.mog.mixture import GaussianMixture
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.plots.drawing import INK

STATES = [{}, {"reward": 1.0, "beta": 1.0}, {"reference_mass": 0.3, "reward": 0.4, "draws": 600.0}]


@functools.cache
def scene(**changes):
    return Scene(densities.show(**changes))


def optimum(changes):
    state = {name: control.value for name, control in CONTROLS.items()} | changes
    return theory.target_mass(state["reference_mass"], state["reward"], state["beta"]).item()


def points(marks, width, x, y):
    return np.array([(value(m["x"], width, *x), value(300 - m["y"], 300, *y)) for m in marks])


def drawn(seen):
    """The draws on the line and in the plane, misses and hits."""
    many = [marks for marks in seen.places("symbol") if len(marks) > 1]
    scales = (420, (-4.2, 4.2), (-0.42, 1.45)), (300, (-3, 3), (-3, 3))
    return [
        [points([mark for mark in marks if mark["fill"] == fill], *scale) for fill in (INK, POINT)]
        for marks, scale in zip(many, scales, strict=True)
    ]


@pytest.mark.parametrize("changes", STATES)
def test_on_the_line_the_optimum_is_the_reference_tilted_by_a_step(changes):
    x, best = points(scene(**changes).places("line")[0], 420, (-4.2, 4.2), (-0.42, 1.45)).T
    mass = changes.get("reference_mass", 0.04)
    weights = [*((1 - mass) * weight for weight in LINE_WEIGHTS), mass]
    shares, means = torch.tensor([weights]).double(), torch.tensor(LINE_MEANS).double()[None, :, None]
    reference = GaussianMixture(shares.log(), means, torch.full_like(means, LINE_SD).log())
    log_reference = reference.log_prob(torch.tensor(x)[None, :, None])[0] + np.log(x[1] - x[0])
    reward = np.where(x > LINE_BOUNDARY, changes.get("reward", 4.0), 0.0)
    expected = theory.tilted_optimum(log_reference, reward, changes.get("beta", 0.5)).exp().numpy() / (x[1] - x[0])
    np.testing.assert_allclose(best, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("changes", STATES)
def test_in_the_plane_the_target_has_the_same_share(changes):
    (best, mixture) = evaluated(densities.show(**changes), "best", "mixture")
    components = mixture.reshape(4, 5)
    assert components[:, 0].sum() == pytest.approx(1)
    assert components[3, 0] == best[0] == pytest.approx(optimum(changes))
    np.testing.assert_allclose(components[:, 1:3], MogSettings().truth_means)
    assert (components[:, 3:] == MogSettings().truth_sd).all()


def test_the_draws_are_the_reference_s_and_no_reward_changes_a_draw_or_the_wait():
    (misses, hits), (plane_misses, plane_hits) = drawn(scene(reference_mass=0.3, draws=600))
    assert len(misses) + len(hits) == len(plane_misses) + len(plane_hits) == 600
    assert len(hits) / 600 == pytest.approx(0.3, abs=0.04)
    assert (hits[:, 0] > LINE_BOUNDARY).all()
    assert (misses[:, 0] < LINE_BOUNDARY).all()
    assert (plane_hits * [1, -1] > 0).all()
    assert (misses[:, 0] < -1.5).mean() == pytest.approx(LINE_WEIGHTS[0], abs=0.06)
    truth = np.array(MogSettings().truth_weights[:3])
    corner = (plane_misses * [1, -1] < 0).astype(int) @ [1, 2]  # left up, right up, left down
    counted = [(corner == name).mean() for name in (3, 2, 1)]
    assert counted == pytest.approx(truth / truth.sum(), abs=0.06)
    low, high = (scene(reward=reward, beta=beta) for reward, beta in ((0.0, 5.0), (20.0, 0.05)))
    for one, other in zip(drawn(low)[1], drawn(high)[1], strict=True):
        np.testing.assert_array_equal(one, other)
    assert re.search("A first batch.*", low.words)[0] == re.search("A first batch.*", high.words)[0]
    assert low.words != high.words
