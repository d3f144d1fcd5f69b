import math

import bumps
import pytest
import torch

from alignkd_lab.mog.problem import Problem
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
    truth = ONE.truth
    exact = bumps.mixture_bump_partition(
        truth.weights, truth.means, truth.sds, ONE.centres[0], ONE.width, ONE.height, 0.5
    )
    torch.testing.assert_close(best, 0.5 * exact.log(), rtol=1e-8, atol=0)


def test_an_unaligned_policys_objective_is_its_reward():
    reached, _ = ONE.optimality(ONE.truth, ONE.truth, 0.5)
    truth = ONE.truth
    heights = bumps.gaussian_bump_power(truth.means, truth.sds, ONE.centres[0], ONE.width, 1.0)
    torch.testing.assert_close(reached, (truth.weights * ONE.height * heights).sum(-1))
