"""Mixtures against torch.distributions and autograd; each seed and purpose has noise of its own."""

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from alignkd_lab.mog.mixture import GaussianMixture, SeedNoise


def random_mixture(*batch, components=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return GaussianMixture(
        torch.log_softmax(torch.randn(*batch, components, generator=generator, dtype=torch.float64), -1),
        2 * torch.randn(*batch, components, 2, generator=generator, dtype=torch.float64),
        -0.5 + 0.5 * torch.randn(*batch, components, 2, generator=generator, dtype=torch.float64),
    )


def as_torch(mixture):
    components = Independent(Normal(mixture.means, mixture.sds), 1)
    return MixtureSameFamily(Categorical(logits=mixture.log_weights), components)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_the_log_density_agrees_with_torch_distributions(batch):
    mixture = random_mixture(*batch)
    points = 3 * torch.randn(*batch, 50, 2, dtype=torch.float64)
    oracle = as_torch(mixture).log_prob(points.movedim(-2, 0)).movedim(0, -1)
    torch.testing.assert_close(mixture.log_prob(points), oracle, rtol=1e-10, atol=1e-10)


def test_the_log_density_holds_far_away_where_the_density_underflows():
    mixture = random_mixture(2)
    points = torch.full((2, 1, 2), 80.0, dtype=torch.float64)
    assert (mixture.log_prob(points) < -800).all()
    torch.testing.assert_close(mixture.log_prob(points), as_torch(mixture).log_prob(points[:, 0]).unsqueeze(-1))


@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
def test_draws_have_the_mean_and_variance_of_the_mixture(batch):
    mixture = random_mixture(*batch)
    generator = torch.Generator().manual_seed(1)
    uniforms = torch.rand(*batch, 40_000, generator=generator, dtype=torch.float64)
    normals = torch.randn(*batch, 40_000, 2, generator=generator, dtype=torch.float64)
    draws = mixture.from_noise(uniforms, normals)
    oracle = as_torch(mixture)
    torch.testing.assert_close(draws.mean(-2), oracle.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(draws.var(-2), oracle.variance, atol=0.05, rtol=0.03)


def test_the_same_noise_gives_two_mixtures_paired_draws():
    mixture = random_mixture(2)
    shifted = GaussianMixture(mixture.log_weights, mixture.means + 1, mixture.log_sds)
    generator = torch.Generator().manual_seed(3)
    uniforms = torch.rand(2, 10, generator=generator, dtype=torch.float64)
    normals = torch.randn(2, 10, 2, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(shifted.from_noise(uniforms, normals), mixture.from_noise(uniforms, normals) + 1)


@pytest.mark.parametrize("sharpening", [0.5, 1.0, 2.0, 4.0])
def test_sharpening_changes_weights_only(sharpening):
    mixture = random_mixture(4)
    sharp = mixture.sharpen(sharpening)
    powers = mixture.weights**sharpening
    torch.testing.assert_close(sharp.weights, powers / powers.sum(-1, keepdim=True))
    assert torch.equal(sharp.means, mixture.means)
    assert torch.equal(sharp.log_sds, mixture.log_sds)


def test_selected_components_keep_their_proportions():
    mixture = random_mixture(2)
    chosen = mixture.select((0, 2))
    kept = mixture.weights[:, [0, 2]]
    torch.testing.assert_close(chosen.weights, kept / kept.sum(-1, keepdim=True))
    assert torch.equal(chosen.means, mixture.means[:, [0, 2]])


def test_the_pull_agrees_with_autograd():
    mixture = random_mixture(3, components=4)
    points = torch.randn(3, 30, 2, dtype=torch.float64)
    coefficients = torch.randn(3, 30, dtype=torch.float64)
    parameters = [t.clone().requires_grad_() for t in (mixture.log_weights, mixture.means, mixture.log_sds)]
    moving = GaussianMixture(torch.log_softmax(parameters[0], -1), *parameters[1:])
    oracle = torch.autograd.grad((coefficients * moving.log_prob(points)).sum(), parameters)
    log_prob, pull = mixture.log_prob_and_pull(points)
    torch.testing.assert_close(log_prob, mixture.log_prob(points))
    for found, expected in zip(pull(coefficients), oracle, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


# Noise


def test_seeds_and_purposes_have_noise_of_their_own_and_the_same_in_every_process():
    noise = SeedNoise((0, 1))
    rows = torch.cat([noise.normal("pairs", 1000), noise.normal("labels", 1000)])
    correlations = torch.corrcoef(rows) - torch.eye(4, dtype=torch.float64)
    assert correlations.abs().max() < 0.15
    # Python's own hash of a string would change this number from run to run.
    assert SeedNoise((7,)).uniform("pairs", 1).item() == 0.26938017495095334
