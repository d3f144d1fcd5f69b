"""What is given before any policy: the truth p*, and the reward on its target."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alignkd_lab import theory
from alignkd_lab.mog.mixture import GaussianMixture
from alignkd_lab.mog.settings import MogSettings

# The grid on which J and J* are compared. A Gaussian as narrow as one cell is still integrated to eight
# digits, and eight standard deviations of the truth lie inside.
_GRID_CELL = 0.05
_MISSING = 1e-3  # of a policy's mass: with more of it between the cells or beyond them the grid says nothing of it
_GRID_MARGIN_SDS = 8


@dataclass(frozen=True)
class Problem:
    """The truth, one mixture broadcast over the seeds, and the reward."""

    truth: GaussianMixture
    target: GaussianMixture
    centres: Tensor
    height: float
    width: float
    clip: float

    @classmethod
    def of(cls, settings: MogSettings, device: torch.device | str = "cpu") -> Problem:
        options = {"dtype": torch.float64, "device": device}
        means = torch.tensor(settings.truth_means, **options).unsqueeze(0)
        log_weights = torch.tensor(settings.truth_weights, **options).log().unsqueeze(0)
        truth = GaussianMixture(log_weights, means, torch.full_like(means, math.log(settings.truth_sd)))
        target = truth.select(settings.targets)
        clip = settings.reward_clip or math.inf
        return cls(truth, target, target.means[0], settings.reward_height, settings.reward_width, clip)

    def reward(self, x: Tensor) -> Tensor:
        """A bump on the nearest target mode, cut at `clip`: `[..., dimension]` -> `[...]`."""
        return self._bump(x).clamp(max=self.clip)

    def on_target(self, x: Tensor) -> Tensor:
        """Which points count as target: where the bump, before any cut, is at least half of its height."""
        return self._bump(x) >= self.height / 2

    def _bump(self, x: Tensor) -> Tensor:
        squared = ((x.unsqueeze(-2) - self.centres) ** 2).sum(-1).amin(-1)
        return self.height * torch.exp(-0.5 * squared / self.width**2)

    def grid(self) -> Tensor:
        """Points `[1, cell, 2]` that cover truth and target, evenly."""
        reach = self.truth.means.abs().max() + _GRID_MARGIN_SDS * self.truth.sds.max()
        steps = math.ceil(reach.item() / _GRID_CELL)
        axis = torch.arange(-steps, steps + 1, dtype=torch.float64, device=self.centres.device) * _GRID_CELL
        return torch.cartesian_prod(axis, axis).unsqueeze(0)

    def optimality(self, policy: GaussianMixture, reference: GaussianMixture, beta: float) -> tuple[Tensor, Tensor]:
        """(J of the policy, J* of the reference), `[seed]` each: both densities as distributions on the grid.

        NaN where it does not hold them, as of a policy that left the plane.
        """
        points = self.grid()
        reward = self.reward(points)
        densities = [mixture.log_prob(points) for mixture in (policy, reference)]
        off, reference_off = ((density.exp().sum(-1) * _GRID_CELL**2 - 1).abs() > _MISSING for density in densities)
        log_policy, log_reference = (torch.log_softmax(density, -1) for density in densities)
        return (
            theory.objective(log_policy, log_reference, reward, beta).masked_fill(off | reference_off, math.nan),
            theory.optimal_value(log_reference, reward, beta).masked_fill(reference_off, math.nan),
        )


def evaluate(policy: GaussianMixture, problem: Problem, own: Tensor, true: Tensor) -> dict[str, Tensor]:
    """Every metric, `[seed]` each, in nats where it is a log-density.

    Args:
        own: fresh draws of the policy, `[seed, draw, dimension]`.
        true: fresh draws of p*, `[seed, draw, dimension]`.

    reward = E_policy[R]; target_rate = share of draws on the target;
    target_precision = E_policy[log p_target], p_target the density of the target mode or modes alone;
    overall_precision = E_policy[log p*]; overall_recall = E_p*[log policy];
    entropy = -E_policy[log policy]; kl_to_truth = KL(policy || p*).
    """
    overall_precision = problem.truth.log_prob(own).mean(-1)
    entropy = -policy.log_prob(own).mean(-1)
    return {
        "reward": problem.reward(own).mean(-1),
        "target_rate": problem.on_target(own).double().mean(-1),
        "target_precision": problem.target.log_prob(own).mean(-1),
        "overall_precision": overall_precision,
        "overall_recall": policy.log_prob(true).mean(-1),
        "entropy": entropy,
        "kl_to_truth": -entropy - overall_precision,
    }
