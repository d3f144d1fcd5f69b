"""Closed forms for both orders: the optimum's, the threshold's, and what a run comes near where nothing is left out."""

import bumps
import pytest
import torch

from alignkd_lab import theory
from alignkd_lab.mog.closed_form import ClosedForm
from alignkd_lab.mog.problem import Problem, evaluate
from alignkd_lab.mog.settings import MogSettings, with_target_weight
from alignkd_lab.pipelines import A_K, K_A

SETTINGS = MogSettings()


@pytest.fixture(scope="module")
def closed_form():
    return ClosedForm(SETTINGS)


def test_the_base_is_the_truth(closed_form):
    generator = torch.Generator().manual_seed(0)
    problem = Problem.of(SETTINGS)
    own, true = (problem.truth.sample(40_000, generator) for _ in range(2))
    measured = evaluate(problem.truth, problem, own, true)
    for name, value in closed_form.metrics(closed_form.truth).items():
        assert value == pytest.approx(measured[name].item(), abs=0.5 if name == "target_precision" else 0.02)


def test_its_reward_is_the_integral_of_the_bump(closed_form):
    centre = SETTINGS.truth_means[3]
    inside = bumps.gaussian_bump_power(SETTINGS.truth_means, [[0.3, 0.3]] * 4, centre, SETTINGS.reward_width, 1)
    expected = SETTINGS.reward_height * (torch.tensor(SETTINGS.truth_weights) * inside).sum().item()
    assert closed_form.metrics(closed_form.truth)["reward"] == pytest.approx(expected, rel=1e-5)


def test_an_alignment_ends_at_the_tilted_optimum(closed_form):
    truth = closed_form.truth.log_probs
    expected = theory.tilted_optimum(truth, closed_form.reward, SETTINGS.beta)
    torch.testing.assert_close(closed_form.route("base_aligned")[-1].log_probs, expected)
    reached = theory.objective(expected, truth, closed_form.reward, SETTINGS.beta)
    torch.testing.assert_close(reached, theory.optimal_value(truth, closed_form.reward, SETTINGS.beta))


def test_a_distillation_sharpens_the_weights_and_leaves_the_modes(closed_form):
    base, student = closed_form.route("kd_only")
    expected = torch.tensor(SETTINGS.truth_weights, dtype=torch.float64) ** SETTINGS.sharpening
    weights = student.log_mass.logsumexp(-1).exp()
    torch.testing.assert_close(weights, expected / expected.sum())
    modes = [policy.log_mass - policy.log_mass.logsumexp(-1, keepdim=True) for policy in (base, student)]
    torch.testing.assert_close(*modes)


def test_every_policy_of_every_route_sums_to_one(closed_form):
    for name in (K_A, A_K, "kd_then_align_high_temperature"):
        totals = [policy.log_probs.logsumexp(0).item() for policy in closed_form.route(name)]
        assert totals == pytest.approx([0, 0, 0], abs=1e-9)


def test_anchored_to_the_base_the_optimum_forgets_that_there_was_a_student(closed_form):
    anchored, aligned = (closed_form.route(name)[-1] for name in ("kd_then_align_base_reference", "base_aligned"))
    torch.testing.assert_close(anchored.log_probs, aligned.log_probs)


def test_high_temperature_changes_the_student_and_nothing_else(closed_form):
    same = ClosedForm(MogSettings(sharpening=SETTINGS.sharpening_high))
    high, plain = closed_form.route("kd_then_align_high_temperature"), same.route(K_A)
    torch.testing.assert_close(high[-1].log_probs, plain[-1].log_probs)


@pytest.mark.parametrize("beta", [0.25, 0.5, 1.0, 2.0])
def test_the_boundary_is_where_the_target_begins_to_win(closed_form, beta):
    (boundary,) = closed_form.least_target_weights([beta])
    for factor, wins in ((0.99, False), (1.01, True)):
        here = ClosedForm(with_target_weight(SETTINGS, boundary * factor))
        held = theory.target_wins(here.truth.log_probs, here.reward, here.on_target, beta)
        assert bool(held) is wins
