"""Mixtures of Gaussians with diagonal covariances, many at once, and the noise that they are drawn from.

Every policy of the Gaussian world is one of these, with one mixture per seed along the batch axes, so
that all seeds train, sample and are scored in the same tensor operation. Left out, compared with
`torch.distributions.MixtureSameFamily`: full covariances, argument checks, autograd (the gradient of the
log-density has a short closed form, `log_prob_and_pull`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# With respect to (logits, means, log_sds), each of the shape of its parameter.
Gradient = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class GaussianMixture:
    """A batch of mixtures; `batch` stands for any number of leading axes, usually one: the seeds.

    Args:
        log_weights: `[batch, component]`, normalised: the weights of each mixture sum to one.
        means: `[batch, component, dimension]`.
        log_sds: `[batch, component, dimension]`, logarithms of the standard deviations.
    """

    log_weights: Tensor
    means: Tensor
    log_sds: Tensor

    @property
    def components(self) -> int:
        return self.log_weights.shape[-1]

    @property
    def weights(self) -> Tensor:
        """`[batch, component]`."""
        return self.log_weights.exp()

    @property
    def sds(self) -> Tensor:
        """`[batch, component, dimension]`."""
        return self.log_sds.exp()

    def to(self, device: torch.device | str) -> GaussianMixture:
        return self.each(lambda t: t.to(device))

    def expand(self, batch: int) -> GaussianMixture:
        """A single mixture, `[1, ...]`, seen `batch` times."""
        return self.each(lambda t: t.expand(batch, *t.shape[1:]))

    def each(self, change: Callable[[Tensor], Tensor]) -> GaussianMixture:
        """What `change` makes of each of the three tensors."""
        return GaussianMixture(change(self.log_weights), change(self.means), change(self.log_sds))

    def joint_log_prob(self, x: Tensor) -> Tensor:
        """log(weight_k N(x; mean_k, sd_k)) `[batch, component, point]` of points `[batch, point, dimension]`.

        A Gaussian is an exponential family, so its log-density is linear in (x, x²): one matrix product.
        """
        precision = torch.exp(-2 * self.log_sds)
        slopes = torch.cat([self.means * precision, -0.5 * precision], -1)
        constant = self.log_weights - (
            0.5 * self.means**2 * precision + self.log_sds + 0.5 * math.log(2 * math.pi)
        ).sum(-1)
        return slopes @ moments(x).mT + constant.unsqueeze(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of points `[batch, point, dimension]` -> `[batch, point]`, in nats."""
        return self.joint_log_prob(x).logsumexp(-2)

    def draw(self, noise: SeedNoise, purpose: str, count: int) -> Tensor:
        """`count` draws for each of the noise's seeds: `[seed, count, dimension]`."""
        dimension = self.means.shape[-1]
        return self.from_noise(noise.uniform(purpose, count), noise.normal(purpose, count, dimension))

    def from_noise(self, uniforms: Tensor, normals: Tensor) -> Tensor:
        """Draws `[batch, n, dimension]` made from given noise; policies fed the same noise give paired draws.

        Args:
            uniforms: `[batch, n]` in [0, 1), pick the components.
            normals: `[batch, n, dimension]`, place the points in them.
        """
        edges = self.weights.cumsum(-1)[..., :-1]
        component = torch.searchsorted(edges.contiguous(), uniforms.contiguous(), right=True)
        index = component.unsqueeze(-1).expand(normals.shape)
        return self.means.gather(-2, index) + self.sds.gather(-2, index) * normals

    def sharpen(self, sharpening: float) -> GaussianMixture:
        """Weights to the power `sharpening`, normalised; components stay (KD-MWE: alpha'_k ~ alpha_k^s)."""
        log_weights = torch.log_softmax(sharpening * self.log_weights, -1)
        return GaussianMixture(log_weights, self.means, self.log_sds)

    def select(self, components: list[int] | tuple[int, ...]) -> GaussianMixture:
        """The named components alone, their weights normalised."""
        kept = list(components)
        log_weights = torch.log_softmax(self.log_weights[..., kept], -1)
        return GaussianMixture(log_weights, self.means[..., kept, :], self.log_sds[..., kept, :])

    def log_prob_and_pull(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Gradient]]:
        """Log-densities `[batch, point]` of points `[batch, point, dimension]`, and a way to their gradient.

        The second value is a function of coefficients c, `[batch, point]`: it returns the gradient of
        sum_n c_n log p(x_n) with respect to (logits, means, log_sds), logits = `log_weights`.
        With r_nk the responsibility of component k for point n:
        d/dlogit_k = sum_n c_n (r_nk - weight_k); d/dmean_k = sum_n c_n r_nk (x_n - mean_k) / sd_k^2;
        d/dlog_sd_k = sum_n c_n r_nk [(x_n - mean_k)^2 / sd_k^2 - 1].
        """
        joint = self.joint_log_prob(x)
        log_prob = joint.logsumexp(-2)
        responsibilities = (joint - log_prob.unsqueeze(-2)).exp()

        def pull(coefficients: Tensor) -> Gradient:
            shares = responsibilities * coefficients.unsqueeze(-2)
            mass = shares.sum(-1, keepdim=True)
            first, second = (shares @ moments(x)).chunk(2, -1)
            precision = torch.exp(-2 * self.log_sds)
            to_logits = mass.squeeze(-1) - self.weights * coefficients.sum(-1, keepdim=True)
            to_means = (first - mass * self.means) * precision
            to_log_sds = (second - 2 * self.means * first + self.means**2 * mass) * precision - mass
            return to_logits, to_means, to_log_sds

        return log_prob, pull


def moments(x: Tensor) -> Tensor:
    """(x, x²), `[..., dimension]` -> `[..., 2 dimension]`: all that a diagonal Gaussian sees of a point."""
    return torch.cat([x, x**2], -1)


@dataclass(frozen=True)
class SeedNoise:
    """Noise for a batch of seeds, on `device`, in float64: numbers that belong to a seed and a purpose.

    A seed's numbers must not depend on which other seeds share its batch, and two pipelines must meet the same numbers,
    so that their differences are paired. Hence one generator per seed and purpose. They run on the CPU on every device:
    a GPU run then sees the same draws.
    """

    seeds: tuple[int, ...]
    device: torch.device | str = "cpu"

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """Uniform on [0, 1): `[seed, *shape]`."""
        return self._stack(torch.rand, purpose, shape)

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Standard normal: `[seed, *shape]`."""
        return self._stack(torch.randn, purpose, shape)

    def _stack(self, draw, purpose: str, shape: tuple[int, ...]) -> Tensor:
        kind = draw.__name__
        rows = [
            draw(shape, generator=_generator(seed, f"{purpose}/{kind}"), dtype=torch.float64) for seed in self.seeds
        ]
        return torch.stack(rows).to(self.device)


def _generator(seed: int, purpose: str) -> torch.Generator:
    """Python's own `hash` of a string changes from process to process; this one does not."""
    digest = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
