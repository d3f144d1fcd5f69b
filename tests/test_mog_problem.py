"""The problem by hand and by exact integrals; the metrics against a grid, where every expectation is a sum."""

import math

import bumps
import pytest
import torch

from alignkd_lab.mog.mixture import GaussianMixture
from alignkd_lab.mog.problem import Problem, evaluate
from alignkd_lab.mog.settings import MogSettings

TWO = Problem.of(MogSettings(targets=(2, 3)))
ONE = Problem.of(MogSettings())


def test_the_reward_is_a_bump_of_the_set_height_and_width_on_each_target():
    at = torch.tensor([[[-1.5, -1.5], [1.5, -1.5], [1.5, -1.0], [-1.5, 1.5]]], dtype=torch.float64)
    expected = torch.tensor([[4.0, 4.0, 4.0 * math.exp(-0.5), 0.0]], dtype=torch.float64)
    torch.testing.assert_close(TWO.reward(at), expected, atol=1e-6, rtol=1e-6)


def test_a_point_is_on_target_from_half_the_height_on():
    away = ONE.width * math.sqrt(2 * math.log(2))
    at = torch.tensor([[1.5, -1.5], [1.5 + 0.999 * away, -1.5], [1.5 + 1.001 * away, -1.5]], dtype=torch.float64)
    assert ONE.on_target(at).tolist() == [True, True, False]


def test_a_cut_lowers_the_reward_and_leaves_the_target_as_it_is():
    cut = Problem.of(MogSettings(reward_clip=1.0))
    points = ONE.grid()
    assert torch.equal(cut.reward(points), ONE.reward(points).clamp(max=1.0))
    assert torch.equal(cut.on_target(points), ONE.on_target(points))
    assert cut.on_target(points).any()


def test_the_truth_is_the_mixture_of_the_settings():
    settings = MogSettings()
    assert TWO.truth.weights[0].tolist() == pytest.approx(settings.truth_weights)
    assert TWO.truth.sds.unique().tolist() == pytest.approx([settings.truth_sd])


def test_the_target_density_is_that_of_its_modes_alone():
    assert TWO.target.weights[0].tolist() == pytest.approx([0.30 / 0.34, 0.04 / 0.34])
    assert ONE.target.means.tolist() == [[[1.5, -1.5]]]


def test_the_grids_optimum_is_the_exact_one():
    _, best = ONE.optimality(ONE.truth, ONE.truth, 0.5)
    exact = bumps.mixture_bump_partition(ONE.truth, ONE.centres[0], ONE.width, ONE.height, 0.5)
    torch.testing.assert_close(best, 0.5 * exact.log(), rtol=1e-8, atol=0)


def test_an_unaligned_policys_objective_is_its_reward():
    reached, _ = ONE.optimality(ONE.truth, ONE.truth, 0.5)
    truth = ONE.truth
    heights = bumps.gaussian_bump_power(truth.means, truth.sds, ONE.centres[0], ONE.width, 1.0)
    torch.testing.assert_close(reached, (truth.weights * ONE.height * heights).sum(-1))


def single(mixture, component):
    kept = [t[:, component : component + 1] for t in (mixture.log_weights, mixture.means, mixture.log_sds)]
    return GaussianMixture(torch.zeros_like(kept[0]), *kept[1:])


def test_every_metric_agrees_with_its_definition_on_a_grid():
    means = torch.tensor([[[-1.0, 1.0], [1.2, -1.2]]], dtype=torch.float64)
    weights = torch.tensor([[0.7, 0.3]], dtype=torch.float64)
    own, true = GaussianMixture(weights.log(), means, torch.full_like(means, -0.8)), TWO.truth
    generator, points = torch.Generator().manual_seed(0), TWO.grid()
    measured = evaluate(own, TWO, *(mixture.sample(100_000, generator) for mixture in (own, true)))

    def expectation(mixture, value):
        return (torch.softmax(mixture.log_prob(points), -1) * value).sum().item()

    reward = TWO.reward(points)
    rare, common = torch.log_softmax(true.log_weights[0, [3, 2]], -1)
    target = torch.logaddexp(rare + single(true, 3).log_prob(points), common + single(true, 2).log_prob(points))
    expected = {
        "reward": expectation(own, reward),
        "target_rate": expectation(own, (reward >= 2).double()),
        "target_precision": expectation(own, target),
        "overall_precision": expectation(own, true.log_prob(points)),
        "overall_recall": expectation(true, own.log_prob(points)),
        "entropy": -expectation(own, own.log_prob(points)),
        "kl_to_truth": expectation(own, own.log_prob(points) - true.log_prob(points)),
    }
    assert measured.keys() == expected.keys()
    for name, value in expected.items():
        assert measured[name].item() == pytest.approx(value, rel=0.01, abs=0.02), name
