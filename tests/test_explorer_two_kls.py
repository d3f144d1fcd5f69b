"""The two KLs: the drawn bumps are the best ones, scored under the truth; a sharpened teacher makes forward KL seek."""

import functools
import re

import numpy as np
import pytest
from scene import Scene, value
from scipy.stats import norm

from alignkd_lab.course.explorers import two_kls
from alignkd_lab.course.explorers.two_kls import SD, WEIGHTS

LINE = np.linspace(-9, 9, 3601)
STATES = [{}, {"sharpening": 3.0, "distance": 4.0}, {"sharpening": 1.0, "distance": 2.5}]


@functools.cache
def scene(**state):
    return Scene(two_kls.show(**state))


def mixture(distance, exponent=1.0):
    weights = np.array(WEIGHTS) ** exponent / (np.array(WEIGHTS) ** exponent).sum()
    means = np.array([-1, 1]) * distance * SD / 2
    return sum(weight * norm.pdf(LINE, mean, SD) for weight, mean in zip(weights, means, strict=True))


def integral(values):
    return np.trapezoid(values, LINE)


def by_moments(density):
    mean = integral(density * LINE)
    return mean, np.sqrt(integral(density * (LINE - mean) ** 2))


@pytest.mark.parametrize("distance", [1.0, 4.0, 6.0, 8.0])
def test_no_bump_on_a_grid_has_less_reverse_kl(distance):
    log_truth = np.log(mixture(distance))

    def reverse_kl(mean, sd):
        return -np.log(sd) - integral(norm.pdf(LINE, mean, sd) * log_truth)

    grid = [(mean, sd) for mean in np.linspace(-3, 3, 61) for sd in np.linspace(0.3, 2.5, 23)]
    assert reverse_kl(*two_kls.reverse_fit(distance)) < min(reverse_kl(*choice) for choice in grid) + 1e-6


@pytest.mark.parametrize("state", STATES)
def test_the_bumps_are_drawn_where_the_fits_are_and_scored_under_the_truth(state):
    distance, exponent = state.get("distance", 6.0), state.get("sharpening", 20.0)
    truth, teacher = mixture(distance), mixture(distance, exponent)
    fits = [by_moments(truth), two_kls.reverse_fit(distance), by_moments(teacher)]
    lines, said = scene(**state).places("line"), scene(**state).words.replace("\u2212", "-")
    scores = [tuple(map(float, found)) for found in re.findall(r"precision (\S+)\nrecall (\S+)", said)]
    assert len(scores) == len(fits)
    for line, (mean, sd), score in zip(lines, fits, scores, strict=False):
        y = [value(point["x"], 225, -4.2, 4.2) for point in line]
        density = [value(240 - point["y"], 240, 0, 1) for point in line]
        np.testing.assert_allclose(density, norm.pdf(y, mean, sd), atol=1e-5)
        precision, recall = norm.pdf(LINE, mean, sd) * np.log(truth), truth * norm.logpdf(LINE, mean, sd)
        assert score == pytest.approx((integral(precision), integral(recall)), abs=0.006)
    drawn = [value(240 - point["y"], 240, 0, 1) for point in lines[3]]
    x = [value(point["x"], 225, -4.2, 4.2) for point in lines[3]]
    np.testing.assert_allclose(drawn, np.interp(x, LINE, teacher), atol=1e-3)


def test_forward_kl_to_a_sharpened_teacher_looks_like_reverse_kl():
    found = re.findall(r"precision (\S+)\nrecall (\S+)", scene().words.replace("\u2212", "-"))
    (_, covers), (seeks, _), (precision, recall) = [tuple(map(float, pair)) for pair in found]
    assert precision == pytest.approx(seeks, abs=0.1)
    assert recall < covers - 4
