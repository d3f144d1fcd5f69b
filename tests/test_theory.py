"""Closed forms against measurement: simulation, grids, finite sets and autograd."""

import math

import numpy as np
import pytest
import torch

from alignkd_lab import theory
from alignkd_lab.mog.mixture import GaussianMixture


def random_mixture(generator, batch, components):
    shape = (batch, components)
    return GaussianMixture(
        torch.log_softmax(torch.randn(shape, generator=generator, dtype=torch.float64), -1),
        torch.randn((*shape, 2), generator=generator, dtype=torch.float64),
        -1 + 0.3 * torch.randn((*shape, 2), generator=generator, dtype=torch.float64),
    )


def grid(reach=5.0, cell=0.1):
    axis = torch.arange(-reach, reach + cell / 2, cell, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis).unsqueeze(0), 2 * math.log(cell)


def bump(points, centre=(0.5, -0.5), width=0.5):
    return torch.exp(-0.5 * ((points - torch.tensor(centre, dtype=points.dtype)) ** 2).sum(-1) / width**2)


def random_logs(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(2 * torch.randn(shape, generator=generator, dtype=torch.float64), -1)


def test_the_gap_to_the_optimal_value_is_beta_times_the_kl_to_the_optimum_on_a_grid():
    generator = torch.Generator().manual_seed(1)
    points, log_cell = grid()
    reference, policy = random_mixture(generator, 6, 3), random_mixture(generator, 6, 3)
    log_reference, log_policy = reference.log_prob(points) + log_cell, policy.log_prob(points) + log_cell
    reward, beta = 3 * bump(points), 0.7
    gap = theory.optimal_value(log_reference, reward, beta) - theory.objective(log_policy, log_reference, reward, beta)
    optimum = theory.tilted_optimum(log_reference, reward, beta)
    assert (gap > 0).all()
    torch.testing.assert_close(gap, beta * (log_policy.exp() * (log_policy - optimum)).sum(-1), rtol=1e-6, atol=1e-6)


def test_the_optimal_value_survives_a_reward_that_overflows_exp():
    value = theory.optimal_value(np.log([0.5, 0.5]), [0.0, 1000.0], 0.1)
    assert float(value) == pytest.approx(1000 + 0.1 * math.log(0.5))


def test_the_mean_shaped_reward_is_the_objective():
    log_policy, log_reference, reward = (
        random_logs(8),
        random_logs(8, seed=1),
        torch.linspace(0, 1, 8, dtype=torch.float64),
    )
    shaped = theory.shaped_reward(reward, log_policy, log_reference, 0.3)
    mean = (log_policy.exp() * shaped).sum()
    torch.testing.assert_close(mean, theory.objective(log_policy, log_reference, reward, 0.3))


def test_an_outcome_that_the_policy_never_shows_adds_nothing_to_the_objective():
    value = theory.objective([0.0, -math.inf], np.log([0.5, 0.5]), [1.0, 5.0], 1.0)
    assert float(value) == pytest.approx(1 + math.log(0.5))


@pytest.mark.parametrize("reference_mass", [1e-6, 0.04, 0.5, 0.9])
def test_the_target_mass_is_that_of_the_tilted_optimum(reference_mass):
    log_reference = np.log([reference_mass, 1 - reference_mass])
    optimum = theory.tilted_optimum(log_reference, [4.0, 0.0], 0.5).exp()
    assert float(theory.target_mass(reference_mass, 4.0, 0.5)) == pytest.approx(float(optimum[0]))


def test_at_the_recall_threshold_target_and_rest_are_level():
    rates = np.array([1e-9, 0.01, 0.3, 0.7])
    threshold = theory.recall_threshold(rates, 0.5)
    np.testing.assert_allclose(theory.target_mass(rates, threshold, 0.5), 0.5)


@pytest.mark.parametrize(("rate", "draws"), [(0.04, 10), (0.01, 200), (0.3, 2)])
def test_the_chance_of_a_target_agrees_with_simulation(rate, draws):
    hits = np.random.default_rng(5).random((20_000, draws)) < rate
    simulated = hits.any(1).mean()
    assert float(theory.chance_of_target(rate, draws)) == pytest.approx(simulated, abs=0.012)


def test_the_chance_of_a_tiny_target_keeps_its_digits():
    assert float(theory.chance_of_target(1e-18, 1000)) == pytest.approx(1e-15, rel=1e-9)


def test_the_expected_draws_agree_with_simulation():
    waited = np.random.default_rng(6).geometric(0.04, 20_000)
    assert float(theory.expected_draws(0.04)) == pytest.approx(waited.mean(), rel=0.03)


def test_the_draws_for_a_chance_give_that_chance():
    draws = theory.draws_for_chance(0.04, 0.95)
    assert float(theory.chance_of_target(0.04, draws)) == pytest.approx(0.95)


def test_bradley_terry_prefers_the_higher_reward():
    assert float(theory.bradley_terry(4.0, 0.0)) == pytest.approx(1 / (1 + math.exp(-4)))


def test_the_dpo_weight_is_the_slope_of_the_dpo_loss():
    margin = torch.linspace(-4, 4, 9, dtype=torch.float64, requires_grad=True)
    reference_margin, beta = 1.5, 0.4
    loss = -torch.nn.functional.logsigmoid(beta * (margin - reference_margin)).sum()
    (slope,) = torch.autograd.grad(loss, margin)
    torch.testing.assert_close(-beta * theory.dpo_weight(margin.detach(), reference_margin, beta), slope)


def test_the_dpo_weight_starts_at_one_half_and_fades_early_under_a_very_negative_anchor():
    assert float(theory.dpo_weight(-20.0, -20.0, 0.5)) == 0.5
    assert float(theory.dpo_weight(-5.0, -20.0, 0.5)) < 0.001


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: theory.tilted_optimum([0.0], [1.0], 0.0), "beta"),
        (lambda: theory.target_mass(1.2, 1.0, 1.0), "reference_mass"),
        (lambda: theory.chance_of_target(-0.1, 5), "target_rate"),
    ],
)
def test_a_value_out_of_range_is_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()
