"""The fit against scikit-learn on the same data, and distillation, which is a fit to the sharpened teacher's draws."""

import itertools

import pytest
import torch
from sklearn.mixture import GaussianMixture as SklearnMixture

from alignkd_lab.mog.em import distil, fit
from alignkd_lab.mog.mixture import GaussianMixture, SeedNoise
from alignkd_lab.mog.problem import Problem
from alignkd_lab.mog.settings import DistilSettings, FitSettings, MogSettings

EXACT = FitSettings(restarts=10, em_iterations=1000, em_tolerance=1e-9, variance_floor=1e-6)


def draws(points=300):
    """Of four seeds: overlapping clusters of unequal weight, so that the fit is not a matter of course."""
    means = torch.tensor([[[-1.5, 0.5], [0.0, -1.0], [1.5, 1.0]]], dtype=torch.float64)
    log_weights = torch.tensor([[0.5, 0.4, 0.1]], dtype=torch.float64).log()
    truth = GaussianMixture(log_weights, means, torch.full_like(means, -0.7))
    return truth.expand(4).draw(SeedNoise(tuple(range(4))), "data", points)


def starts(seeds, restarts, components):
    return SeedNoise(tuple(range(seeds))).uniform("starts", restarts, components)


@pytest.mark.parametrize("components", [1, 2, 3])
def test_the_fit_is_as_likely_as_scikit_learns(components):
    data = draws()
    ours = fit(data, starts(4, 10, components), EXACT).log_prob(data).mean(-1)
    for seed, points in enumerate(data.numpy()):
        oracle = SklearnMixture(
            components, covariance_type="diag", n_init=10, max_iter=1000, tol=1e-9, random_state=0
        ).fit(points)
        assert ours[seed].item() == pytest.approx(oracle.score(points), abs=1e-4)


def test_more_restarts_never_make_the_fit_less_likely_and_more_iterations_make_every_fit_likelier():
    data, uniforms = draws(points=150), starts(4, 8, 4)
    one, many = (fit(data, uniforms[:, :n], EXACT).log_prob(data).mean(-1) for n in (1, 8))
    assert (one <= many + 1e-9).all()
    assert (many > one + 1e-4).any()
    data, uniforms = draws(), starts(4, 1, 3)
    scores = [
        fit(data, uniforms, FitSettings(em_iterations=n, em_tolerance=1e-12)).log_prob(data).mean(-1)
        for n in (1, 3, 10, 100)
    ]
    for earlier, later in itertools.pairwise(scores):
        assert (later >= earlier - 1e-12).all()


def test_few_or_identical_points_do_not_break_the_fit_and_fewer_than_components_are_refused():
    data = draws(points=20)
    data[:, :10] = data[:, :1]
    found = fit(data, starts(4, 4, 3), FitSettings(variance_floor=0.01))
    assert (found.sds**2 >= 0.01 - 1e-12).all()
    assert torch.isclose(found.sds**2, torch.tensor(0.01, dtype=torch.float64)).any()
    found = fit(torch.ones(2, 10, 2, dtype=torch.float64), starts(2, 3, 3), FitSettings())
    assert torch.isfinite(found.means).all()
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="at least 5 points"):
        fit(torch.zeros(1, 4, 2, dtype=torch.float64), starts(1, 1, 5), FitSettings())


# Distillation

PROBLEM = Problem.of(MogSettings())
TRUTH = PROBLEM.truth.expand(3)


def student(components, sharpening):
    return distil(TRUTH, components, SeedNoise((0, 1, 2)), DistilSettings(sharpening=sharpening, teacher_samples=2000))


def kl(first, second):
    log_first, log_second = (torch.log_softmax(m.log_prob(PROBLEM.grid()), -1) for m in (first, second))
    return (log_first.exp() * (log_first - log_second)).sum(-1)


def test_a_student_as_large_as_its_teacher_learns_it_sharpened_and_a_small_one_covers_more_the_flatter_it_is():
    sharp = TRUTH.sharpen(1.5)
    found = student(4, 1.5)
    assert (kl(sharp, found) < 0.01).all()
    assert (kl(TRUTH, found) > 2 * kl(sharp, found)).all()
    rare = TRUTH.means[:, 3:]
    assert student(3, 1.0).means.shape == (3, 3, 2)
    densities = [student(3, s).log_prob(rare)[:, 0] for s in (0.5, 1.0, 2.0)]
    assert (densities[0] > densities[1]).all()
    assert (densities[1] > densities[2]).all()
