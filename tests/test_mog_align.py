"""RLHF and DPO against autograd, torch's Adam, and the exact optimum."""

from dataclasses import replace

import pytest
import torch

from alignkd_lab import theory
from alignkd_lab.mog import align
from alignkd_lab.mog.mixture import GaussianMixture, SeedNoise
from alignkd_lab.mog.problem import Problem
from alignkd_lab.mog.settings import MogSettings

SEEDS = (0, 1, 2)
NOISE = SeedNoise(SEEDS)
SETTINGS = MogSettings()
PROBLEM = Problem.of(SETTINGS)


def truth():
    """Policies start as the truth itself here, so that no fit stands between cause and effect."""
    return PROBLEM.truth.expand(len(SEEDS))


def rlhf(init, reference, problem=PROBLEM, beta=0.5, steps=200, batch=256, learning_rate=0.1, noise=NOISE):
    size = {"rlhf_steps": steps, "rlhf_batch": batch, "rlhf_learning_rate": learning_rate}
    return align.rlhf(init, reference, problem, noise, replace(SETTINGS, beta=beta, **size))


def pairs_of(sampler, count=8000, label_noise=0.0, problem=PROBLEM):
    return align.sample_pairs(sampler, problem, NOISE, replace(SETTINGS, dpo_pairs=count, dpo_label_noise=label_noise))


def captured_direction(monkeypatch, run):
    """The direction that the first step would climb, taken from the code under test."""
    found = []

    def take(init, reference, problem, noise, direction, steps, learning_rate):
        found.extend(direction(init, 0))
        return init, {}

    monkeypatch.setattr(align, "_climb", take)
    run()
    return found


def test_adam_steps_as_torchs_does():
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(2, 3, generator=generator, dtype=torch.float64) for _ in range(3)]
    oracle = [p.clone().requires_grad_() for p in start]
    adam, torchs = align.Adam(tuple(start)), torch.optim.Adam(oracle, lr=0.1, maximize=True)
    for step in range(20):
        gradients = [torch.randn(2, 3, generator=generator, dtype=torch.float64) for _ in range(3)]
        for parameter, gradient in zip(oracle, gradients, strict=True):
            parameter.grad = gradient
        torchs.param_groups[0]["lr"] = 0.1 / (step + 1)
        torchs.step()
        ours = adam.step(tuple(gradients), 0.1 / (step + 1))
    for found, expected in zip(ours, oracle, strict=True):
        torch.testing.assert_close(found, expected.detach())


def test_rlhf_climbs_the_gradient_of_the_objective(monkeypatch):
    reference, policy = truth(), truth().sharpen(0.5)
    direction = captured_direction(monkeypatch, lambda: rlhf(policy, reference, steps=1, batch=200_000))
    points = PROBLEM.grid()
    held = [part.clone().requires_grad_() for part in (policy.log_weights, policy.means, policy.log_sds)]
    moving = GaussianMixture(torch.log_softmax(held[0], -1), *held[1:])
    # The oracle differentiates J itself, as a sum over the cells of a grid.
    log_policy = moving.log_prob(points) + 2 * torch.log(points[0, 1, 1] - points[0, 0, 1])
    log_reference = reference.log_prob(points)
    log_reference = log_reference - log_reference.logsumexp(-1, keepdim=True)
    objective = theory.objective(log_policy, log_reference, PROBLEM.reward(points), 0.5).sum()
    for found, expected in zip(direction, torch.autograd.grad(objective, held), strict=True):
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0.03)


@pytest.mark.parametrize("beta", [0.5, 4.0])
def test_the_recall_threshold_predicts_whether_rlhf_finds_the_target(beta):
    policy, _ = rlhf(truth(), truth(), beta=beta)
    points = PROBLEM.grid()
    log_reference = torch.log_softmax(truth().log_prob(points), -1)
    reward = PROBLEM.reward(points)
    optimum = theory.tilted_optimum(log_reference, reward, beta)
    predicted = theory.target_mass_of(optimum, PROBLEM.on_target(points)) > 0.5
    own = policy.from_noise(NOISE.uniform("test", 2000), NOISE.normal("test", 2000, 2))
    found = PROBLEM.on_target(own).double().mean(-1) > 0.5
    assert torch.equal(found, predicted)
    assert predicted.all() == (beta == 0.5)


def test_rlhf_without_a_reward_in_reach_stays_at_its_reference():
    blind = truth().select((0, 1, 2))
    _, info = rlhf(blind, blind)
    assert max(info["per_seed"]["final_reward"]) < 0.01
    assert max(info["per_seed"]["final_kl"]) < 0.01


def test_the_curve_starts_at_the_init_and_ends_at_the_policy():
    _, info = rlhf(truth(), truth(), steps=40)
    curve = info["curve"]
    assert [curve[0]["step"], curve[-1]["step"]] == [0, 40]
    assert curve[0]["kl"] == pytest.approx(0, abs=1e-12)
    assert curve[-1]["reward"] > curve[0]["reward"]
    assert curve[-1]["reward"] == pytest.approx(sum(info["per_seed"]["final_reward"]) / len(SEEDS))


def test_dpo_visits_all_pairs_in_turn(monkeypatch):
    pairs = pairs_of(truth(), count=6)
    seen = []
    real = GaussianMixture.log_prob_and_pull

    def watch(self, points):
        seen.append(points[0, : len(points[0]) // 2])
        return real(self, points)

    monkeypatch.setattr(GaussianMixture, "log_prob_and_pull", watch)
    settings = replace(SETTINGS, beta=0.5, dpo_steps=3, dpo_batch=4, dpo_learning_rate=0.1)
    align.dpo(truth(), truth(), pairs, PROBLEM, NOISE, settings)
    order = [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    torch.testing.assert_close(torch.cat(seen), pairs.chosen[0, order])


def test_informative_pairs_are_as_many_as_the_theory_says():
    pairs = pairs_of(truth(), count=20_000)
    on_target = PROBLEM.on_target(PROBLEM.grid())
    rate = theory.target_mass_of(torch.log_softmax(PROBLEM.truth.log_prob(PROBLEM.grid()), -1), on_target)
    expected = 20_000 * theory.informative_pair_probability(rate, 2)
    assert (pairs.informative - expected).abs().max() < 4 * expected.sqrt()
    assert pairs_of(truth().select((0, 1, 2))).informative.tolist() == [0, 0, 0]  # which never show the target


def test_labels_follow_bradley_terry_and_label_noise_flips_its_share_of_the_pairs():
    pairs = pairs_of(truth(), count=50_000)
    won, lost = PROBLEM.reward(pairs.chosen), PROBLEM.reward(pairs.rejected)
    clear = (won - lost).abs() > 2
    expected = theory.bradley_terry((won - lost).abs()[clear], 0.0).mean()
    assert (won > lost)[clear].double().mean().item() == pytest.approx(expected.item(), abs=0.01)
    clean, noisy = pairs_of(truth(), count=5000), pairs_of(truth(), count=5000, label_noise=0.2)
    flipped = (clean.chosen != noisy.chosen).any(-1)
    assert flipped.double().mean().item() == pytest.approx(0.2, abs=0.02)
    torch.testing.assert_close(noisy.chosen[flipped], clean.rejected[flipped])
    assert torch.equal(clean.informative, noisy.informative)


def test_two_targets_are_both_found():
    problem = Problem.of(MogSettings(targets=(2, 3)))
    policy, info = rlhf(truth(), truth(), problem=problem)
    own = policy.from_noise(NOISE.uniform("test", 2000), NOISE.normal("test", 2000, 2))
    for centre in problem.centres:
        near = ((own - centre).norm(dim=-1) < 1).double().mean(-1)
        assert (near > 0.03).all()
    assert min(info["per_seed"]["final_reward"]) > 3
