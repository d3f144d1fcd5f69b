"""Integrals of the Gaussian world's reward, exact: what its grid and its draws are held against."""

import torch
from torch import Tensor


def gaussian_bump_power(means: Tensor, sds: Tensor, centre: Tensor, width: Tensor, power: Tensor) -> Tensor:
    """E[exp(-power |x - centre|^2 / (2 width^2))] for x ~ N(mean, sd^2): `[..., dimension]` -> `[...]`."""
    variance = torch.as_tensor(sds, dtype=torch.float64) ** 2
    bump_variance = torch.as_tensor(width, dtype=torch.float64) ** 2 / torch.as_tensor(power, dtype=torch.float64)
    spread = bump_variance + variance
    distance = (torch.as_tensor(means, dtype=torch.float64) - torch.as_tensor(centre, dtype=torch.float64)) ** 2
    return torch.exp(0.5 * (torch.log(bump_variance / spread) - distance / spread).sum(-1))


def mixture_bump_partition(
    weights: Tensor,
    means: Tensor,
    sds: Tensor,
    centre: Tensor,
    width: Tensor,
    height: Tensor,
    beta: Tensor,
    terms: int = 200,
) -> Tensor:
    """Z = E_mixture[exp(bump / beta)] for one bump: the exponential series, each power a Gaussian integral.

    Args:
        weights: `[..., component]`; means, sds: `[..., component, dimension]`; centre: `[dimension]`.
        height, width: the reward is height * exp(-|x - centre|^2 / (2 width^2)).
        terms: of the series in height / beta; the default serves up to height / beta = 80.
    """
    ratio = torch.as_tensor(height, dtype=torch.float64) / beta
    powers = torch.arange(1, terms, dtype=torch.float64, device=ratio.device)
    moments = gaussian_bump_power(
        torch.as_tensor(means, dtype=torch.float64).unsqueeze(-2),
        torch.as_tensor(sds, dtype=torch.float64).unsqueeze(-2),
        centre,
        width,
        powers.unsqueeze(-1),
    )
    coefficients = torch.exp(powers * torch.log(ratio.unsqueeze(-1)) - torch.lgamma(powers + 1))
    return 1 + (torch.as_tensor(weights, dtype=torch.float64) * (coefficients * moments).sum(-1)).sum(-1)
