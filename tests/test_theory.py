"""Closed forms against measurement: simulation, finite sets and autograd."""

import math

import numpy as np
import pytest
import torch

from alignkd_lab import theory


def random_logs(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(2 * torch.randn(shape, generator=generator, dtype=torch.float64), -1)


def test_the_gap_to_the_optimal_value_is_beta_times_the_kl_to_the_optimum():
    log_policy, log_reference, beta = random_logs(6, 40), random_logs(6, 40, seed=1), 0.7
    reward = torch.linspace(0, 3, 40, dtype=torch.float64)
    gap = theory.optimal_value(log_reference, reward, beta) - theory.objective(log_policy, log_reference, reward, beta)
    optimum = theory.tilted_optimum(log_reference, reward, beta)
    assert (gap > 0).all()
    torch.testing.assert_close(gap, beta * (log_policy.exp() * (log_policy - optimum)).sum(-1))


def test_the_objective_holds_where_exp_overflows_and_where_the_policy_never_shows_an_outcome():
    value = theory.optimal_value(np.log([0.5, 0.5]), [0.0, 1000.0], 0.1)
    assert float(value) == pytest.approx(1000 + 0.1 * math.log(0.5))
    value = theory.objective([0.0, -math.inf], np.log([0.5, 0.5]), [1.0, 5.0], 1.0)
    assert float(value) == pytest.approx(1 + math.log(0.5))


def test_the_mean_shaped_reward_is_the_objective():
    log_policy, log_reference = random_logs(8), random_logs(8, seed=1)
    reward = torch.linspace(0, 1, 8, dtype=torch.float64)
    shaped = theory.shaped_reward(reward, log_policy, log_reference, 0.3)
    mean = (log_policy.exp() * shaped).sum()
    torch.testing.assert_close(mean, theory.objective(log_policy, log_reference, reward, 0.3))


def test_the_target_mass_is_that_of_the_tilted_optimum_and_a_half_at_the_recall_threshold():
    masses = np.array([1e-9, 1e-6, 0.01, 0.04, 0.3, 0.5, 0.7, 0.9])
    optimum = theory.tilted_optimum(np.log([masses, 1 - masses]).T, [4.0, 0.0], 0.5).exp()
    np.testing.assert_allclose(theory.target_mass(masses, 4.0, 0.5), optimum[:, 0])
    np.testing.assert_allclose(theory.target_mass(masses, theory.recall_threshold(masses, 0.5), 0.5), 0.5)


def test_the_chance_of_a_target_and_the_wait_for_it_agree_with_simulation():
    for rate, draws in ((0.04, 10), (0.01, 200), (0.3, 2)):
        simulated = (np.random.default_rng(5).random((20_000, draws)) < rate).any(1).mean()
        assert float(theory.chance_of_target(rate, draws)) == pytest.approx(simulated, abs=0.012)
    assert float(theory.chance_of_target(1e-18, 1000)) == pytest.approx(1e-15, rel=1e-9)
    assert float(theory.chance_of_target(0.04, theory.draws_for_chance(0.04, 0.95))) == pytest.approx(0.95)
    waited = np.random.default_rng(6).geometric(0.04, 20_000)
    assert float(theory.expected_draws(0.04)) == pytest.approx(waited.mean(), rel=0.03)


def test_the_dpo_weight_is_the_slope_of_the_dpo_loss():
    margin = torch.linspace(-24, 4, 9, dtype=torch.float64, requires_grad=True)
    for reference_margin, beta in ((1.5, 0.4), (-20.0, 0.5)):
        loss = -torch.nn.functional.logsigmoid(beta * (margin - reference_margin)).sum()
        (slope,) = torch.autograd.grad(loss, margin)
        torch.testing.assert_close(-beta * theory.dpo_weight(margin.detach(), reference_margin, beta), slope)
    assert float(theory.bradley_terry(4.0, 0.0)) == pytest.approx(1 / (1 + math.exp(-4)))


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
