"""Integrals of the Gaussian world's reward, exact: what its grid and its draws are held against."""

import math

import torch


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
