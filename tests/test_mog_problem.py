"""The problem, its metrics and its closed forms: by hand, by exact integrals, and by sums over a grid."""

import math

import pytest
import torch

from alignkd_lab import theory
from alignkd_lab.mog.closed_form import ClosedForm
from alignkd_lab.mog.mixture import GaussianMixture, SeedNoise
from alignkd_lab.mog.problem import Problem, evaluate
from alignkd_lab.mog.settings import MogSettings, with_target_weight
from alignkd_lab.pipelines import A_K, K_A

TWO = Problem.of(MogSettings(targets=(2, 3)))
ONE = Problem.of(MogSettings())
NOISE = SeedNoise((0,))


def gaussian_bump_power(means, sds, centre, width, power):
    """E[exp(-power |x - centre|^2 / (2 width^2))] for x ~ N(mean, sd^2): `[..., dimension]` -> `[...]`."""
    means, sds, centre = (torch.as_tensor(part, dtype=torch.float64) for part in (means, sds, centre))
    bump_variance = width**2 / power
    spread = bump_variance + sds**2
    return torch.exp(0.5 * (torch.log(bump_variance / spread) - (means - centre) ** 2 / spread).sum(-1))


def mixture_bump_partition(mixture, centre, width, height, beta, terms=200):
    """Z = E_mixture[exp(bump / beta)] for one bump: the exponential series, each power a Gaussian integral.

    200 terms serve up to height / beta = 80.
    """
    powers = torch.arange(1, terms, dtype=torch.float64)
    means, sds = mixture.means.unsqueeze(-2), mixture.sds.unsqueeze(-2)
    moments = gaussian_bump_power(means, sds, centre, width, powers.unsqueeze(-1))
    coefficients = torch.exp(powers * math.log(height / beta) - torch.lgamma(powers + 1))
    return 1 + (mixture.weights * (coefficients * moments).sum(-1)).sum(-1)


def test_the_reward_is_a_bump_on_each_target_half_its_height_is_on_target_and_a_cut_lowers_the_reward_alone():
    at = torch.tensor([[[-1.5, -1.5], [1.5, -1.5], [1.5, -1.0], [-1.5, 1.5]]], dtype=torch.float64)
    expected = torch.tensor([[4.0, 4.0, 4.0 * math.exp(-0.5), 0.0]], dtype=torch.float64)
    torch.testing.assert_close(TWO.reward(at), expected, atol=1e-6, rtol=1e-6)
    away = ONE.width * math.sqrt(2 * math.log(2))
    at = torch.tensor([[1.5, -1.5], [1.5 + 0.999 * away, -1.5], [1.5 + 1.001 * away, -1.5]], dtype=torch.float64)
    assert ONE.on_target(at).tolist() == [True, True, False]
    cut = Problem.of(MogSettings(reward_clip=1.0))
    points = ONE.grid()
    assert torch.equal(cut.reward(points), ONE.reward(points).clamp(max=1.0))
    assert torch.equal(cut.on_target(points), ONE.on_target(points))
    assert cut.on_target(points).any()


def test_the_target_density_is_that_of_its_modes_alone():
    assert TWO.target.weights[0].tolist() == pytest.approx([0.30 / 0.34, 0.04 / 0.34])
    assert ONE.target.means.tolist() == [[[1.5, -1.5]]]


def test_on_the_grid_the_optimum_and_an_unaligned_policys_objective_are_the_exact_ones():
    truth, centre = ONE.truth, ONE.centres[0]
    reached, best = ONE.optimality(truth, truth, 0.5)
    exact = mixture_bump_partition(truth, centre, ONE.width, ONE.height, 0.5)
    torch.testing.assert_close(best, 0.5 * exact.log(), rtol=1e-8, atol=0)
    heights = gaussian_bump_power(truth.means, truth.sds, centre, ONE.width, 1.0)
    torch.testing.assert_close(reached, (truth.weights * ONE.height * heights).sum(-1))


def test_of_a_policy_that_left_the_grid_or_fell_between_its_cells_no_objective_is_told():
    truth = ONE.truth
    moved = (GaussianMixture(truth.log_weights, truth.means + shift, truth.log_sds + narrower)
             for shift, narrower in ((3.0, 0.0), (0.0, -3.0)))  # fmt: skip
    for policy in moved:
        assert ONE.optimality(policy, truth, 0.5)[0].isnan().all()
        assert ONE.optimality(policy, truth, 0.5)[1].isfinite().all()
        assert ONE.optimality(truth, policy, 0.5)[1].isnan().all()


def test_every_metric_agrees_with_its_definition_on_a_grid():
    means = torch.tensor([[[-1.0, 1.0], [1.2, -1.2]]], dtype=torch.float64)
    weights = torch.tensor([[0.7, 0.3]], dtype=torch.float64)
    own, true = GaussianMixture(weights.log(), means, torch.full_like(means, -0.8)), TWO.truth
    points = TWO.grid()
    measured = evaluate(own, TWO, own.draw(NOISE, "own", 100_000), true.draw(NOISE, "true", 100_000))

    def expectation(mixture, value):
        return (torch.softmax(mixture.log_prob(points), -1) * value).sum().item()

    reward = TWO.reward(points)
    rare, common = torch.log_softmax(true.log_weights[0, [3, 2]], -1)
    target = torch.logaddexp(rare + true.select((3,)).log_prob(points), common + true.select((2,)).log_prob(points))
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


# Closed forms of both orders: where an alignment and a distillation end, and from which share on the target wins

SETTINGS = MogSettings()


@pytest.fixture(scope="module")
def closed_form():
    return ClosedForm(SETTINGS)


def test_the_base_is_the_truth_and_its_reward_the_integral_of_the_bump(closed_form):
    own, true = (ONE.truth.draw(NOISE, purpose, 40_000) for purpose in ("own", "true"))
    measured = evaluate(ONE.truth, ONE, own, true)
    for name, value in closed_form.metrics(closed_form.truth).items():
        assert value == pytest.approx(measured[name].item(), abs=0.5 if name == "target_precision" else 0.02)
    centre = SETTINGS.truth_means[3]
    inside = gaussian_bump_power(SETTINGS.truth_means, [[0.3, 0.3]] * 4, centre, SETTINGS.reward_width, 1)
    expected = SETTINGS.reward_height * (torch.tensor(SETTINGS.truth_weights) * inside).sum().item()
    assert closed_form.metrics(closed_form.truth)["reward"] == pytest.approx(expected, rel=1e-5)


def test_an_alignment_ends_at_the_tilted_optimum(closed_form):
    truth = closed_form.truth.log_probs
    expected = theory.tilted_optimum(truth, closed_form.reward, SETTINGS.beta)
    torch.testing.assert_close(closed_form.route("base_aligned")[-1].log_probs, expected)


def test_a_distillation_sharpens_the_weights_and_leaves_the_modes_and_every_policy_sums_to_one(closed_form):
    base, student = closed_form.route("kd_only")
    expected = torch.tensor(SETTINGS.truth_weights, dtype=torch.float64) ** SETTINGS.sharpening
    weights = student.log_mass.logsumexp(-1).exp()
    torch.testing.assert_close(weights, expected / expected.sum())
    modes = [policy.log_mass - policy.log_mass.logsumexp(-1, keepdim=True) for policy in (base, student)]
    torch.testing.assert_close(*modes)
    for name in (K_A, A_K, "kd_then_align_high_temperature"):
        totals = [policy.log_probs.logsumexp(0).item() for policy in closed_form.route(name)]
        assert totals == pytest.approx([0, 0, 0], abs=1e-9)


def test_of_a_pipeline_that_gaussians_do_not_run_nothing_is_predicted_and_of_all_settings_something(closed_form):
    for name in ("adpa", "align_student_only", "nosuch"):
        with pytest.raises(ValueError, match=f"'{name}' is unknown. Accepted: base, "):
            closed_form.route(name)
    steep = ClosedForm(MogSettings(reward_height=300.0, beta=2.0))  # at a beta of 1 too narrow a peak for the grid
    expected = 300 / SETTINGS.reward_height * closed_form.metrics(closed_form.truth)["reward"]
    assert steep.metrics(steep.truth)["reward"] == pytest.approx(expected)


def test_with_the_base_as_reference_the_optimum_forgets_the_student_and_high_temperature_changes_it_alone(closed_form):
    of_the_base, aligned = (closed_form.route(name)[-1] for name in ("kd_then_align_base_reference", "base_aligned"))
    torch.testing.assert_close(of_the_base.log_probs, aligned.log_probs)
    same = ClosedForm(MogSettings(sharpening=SETTINGS.sharpening_high))
    high, plain = closed_form.route("kd_then_align_high_temperature"), same.route(K_A)
    torch.testing.assert_close(high[-1].log_probs, plain[-1].log_probs)


@pytest.mark.parametrize("beta", [0.25, 0.5, 1.0, 2.0])
def test_the_boundary_is_where_the_target_begins_to_win(closed_form, beta):
    (boundary,) = closed_form.least_target_weights([beta])
    for factor, wins in ((0.99, False), (1.01, True)):
        here = ClosedForm(with_target_weight(SETTINGS, boundary * factor))
        optimum = theory.tilted_optimum(here.truth.log_probs, here.reward, beta)
        assert bool(theory.target_mass_of(optimum, here.on_target) > 0.5) is wins
