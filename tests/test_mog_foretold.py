"""Closed forms for both orders: the optimum's, the threshold's, and what a run comes near where nothing is left out."""

import numpy as np
import pytest
import torch

from alignkd_lab import theory
from alignkd_lab.metrics import A_K, K_A
from alignkd_lab.mog.cells import with_target_weight
from alignkd_lab.mog.foretold import Foretelling
from alignkd_lab.mog.metrics import evaluate
from alignkd_lab.mog.problem import Problem
from alignkd_lab.mog.settings import MogSettings

SETTINGS = MogSettings()


@pytest.fixture(scope="module")
def foretelling():
    return Foretelling(SETTINGS)


def test_the_base_is_the_truth(foretelling):
    generator = torch.Generator().manual_seed(0)
    problem = Problem.of(SETTINGS)
    own, true = (problem.truth.sample(40_000, generator) for _ in range(2))
    measured = evaluate(problem.truth, problem, own, true)
    for name, value in foretelling.metrics(foretelling.truth).items():
        assert value == pytest.approx(measured[name].item(), abs=0.5 if name == "target_precision" else 0.02)


def test_its_reward_is_the_integral_of_the_bump(foretelling):
    centre = SETTINGS.truth_means[3]
    inside = theory.gaussian_bump_power(SETTINGS.truth_means, [[0.3, 0.3]] * 4, centre, SETTINGS.reward_width, 1)
    expected = SETTINGS.reward_height * (torch.tensor(SETTINGS.truth_weights) * inside).sum().item()
    assert foretelling.metrics(foretelling.truth)["reward"] == pytest.approx(expected, rel=1e-5)


def test_an_alignment_ends_at_the_tilted_optimum(foretelling):
    truth = foretelling.truth.log_probs
    expected = theory.tilted_optimum(truth, foretelling.reward, SETTINGS.beta)
    torch.testing.assert_close(foretelling.route("base_aligned")[-1].log_probs, expected)
    reached = theory.objective(expected, truth, foretelling.reward, SETTINGS.beta)
    torch.testing.assert_close(reached, theory.optimal_value(truth, foretelling.reward, SETTINGS.beta))


def test_a_distillation_sharpens_the_weights_and_leaves_the_modes(foretelling):
    base, student = foretelling.route("kd_only")
    expected = torch.tensor(SETTINGS.truth_weights, dtype=torch.float64) ** SETTINGS.sharpening
    weights = student.log_mass.logsumexp(-1).exp()
    torch.testing.assert_close(weights, expected / expected.sum())
    modes = [policy.log_mass - policy.log_mass.logsumexp(-1, keepdim=True) for policy in (base, student)]
    torch.testing.assert_close(*modes)


def test_every_policy_of_every_route_sums_to_one(foretelling):
    for name in (K_A, A_K, "kd_then_align_high_temperature"):
        totals = [policy.log_probs.logsumexp(0).item() for policy in foretelling.route(name)]
        assert totals == pytest.approx([0, 0, 0], abs=1e-9)


def test_anchored_to_the_base_the_optimum_forgets_that_there_was_a_student(foretelling):
    anchored, aligned = (foretelling.route(name)[-1] for name in ("kd_then_align_base_reference", "base_aligned"))
    torch.testing.assert_close(anchored.log_probs, aligned.log_probs)


def test_high_temperature_changes_the_student_and_nothing_else(foretelling):
    same = Foretelling(MogSettings(sharpening=SETTINGS.sharpening_high))
    high, plain = foretelling.route("kd_then_align_high_temperature"), same.route(K_A)
    torch.testing.assert_close(high[-1].log_probs, plain[-1].log_probs)


@pytest.mark.parametrize("beta", [0.25, 0.5, 1.0, 2.0])
def test_the_border_is_where_the_target_begins_to_win(foretelling, beta):
    (border,) = foretelling.least_target_weights([beta])
    for factor, wins in ((0.99, False), (1.01, True)):
        here = Foretelling(with_target_weight(SETTINGS, border * factor))
        held = theory.target_wins(here.truth.log_probs, here.reward, here.on_target, beta)
        assert bool(held) is wins


def test_the_border_rises_with_the_kl_weight(foretelling):
    assert (np.diff(foretelling.least_target_weights([0.2, 0.5, 1.0, 2.0, 4.0])) > 0).all()
