"""The metrics against a grid, where every expectation is a sum."""

import pytest
import torch

from alignkd_lab.mog.mixture import GaussianMixture
from alignkd_lab.mog.problem import Problem, evaluate
from alignkd_lab.mog.settings import MogSettings

PROBLEM = Problem.of(MogSettings(targets=(2, 3)))


def policy():
    means = torch.tensor([[[-1.0, 1.0], [1.2, -1.2]]], dtype=torch.float64)
    weights = torch.tensor([[0.7, 0.3]], dtype=torch.float64)
    return GaussianMixture(weights.log(), means, torch.full_like(means, -0.8))


@pytest.fixture(scope="module")
def measured():
    generator = torch.Generator().manual_seed(0)
    own, true = policy().sample(100_000, generator), PROBLEM.truth.sample(100_000, generator)
    return {name: value.item() for name, value in evaluate(policy(), PROBLEM, own, true).items()}


def expectation(mixture, value):
    return (torch.softmax(mixture.log_prob(PROBLEM.grid()), -1) * value).sum().item()


def test_every_metric_agrees_with_its_definition_on_a_grid(measured):
    points = PROBLEM.grid()
    reward, own, true = PROBLEM.reward(points), policy(), PROBLEM.truth
    rare, common = torch.softmax(true.log_weights[0, [3, 2]], -1)
    target = torch.logaddexp(
        rare.log() + single(true, 3).log_prob(points), common.log() + single(true, 2).log_prob(points)
    )
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
        assert measured[name] == pytest.approx(value, rel=0.01, abs=0.02), name


def single(mixture, component):
    kept = [t[:, component : component + 1] for t in (mixture.log_weights, mixture.means, mixture.log_sds)]
    return GaussianMixture(torch.zeros_like(kept[0]), *kept[1:])
