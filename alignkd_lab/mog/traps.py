"""RLHF's two traps, one at a time: what is never drawn cannot be learnt, what costs more than it pays is unlearnt.

The target's share in the reference falls from common to one in ten billion. For each share RLHF runs twice:
from the reference, as usual, and *handed* the target, from a start that shows it half of the time. The first
run meets both traps, the second the learning trap alone. Beside them stands the optimum of all policies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alignkd_lab import theory
from alignkd_lab.mog.align import rlhf
from alignkd_lab.mog.mixture import GaussianMixture
from alignkd_lab.mog.noise import SeedNoise
from alignkd_lab.mog.problem import Problem
from alignkd_lab.mog.settings import MogSettings

# A weak penalty keeps the traps apart: it lets the optimum find targets that training never draws.
SETTINGS = replace(MogSettings(), beta=0.25)
MASSES = tuple(10.0 ** (-power / 2) for power in range(2, 21))
_HANDED = 0.5
_SCORING_DRAWS = 2000


@dataclass(frozen=True)
class Traps:
    """How often each ends on the target, by its share in the reference.

    masses: `[mass]`, of the target in the reference.
    optimum: `[mass]`, of the best of all policies, from a grid.
    from_reference, handed: `[mass, seed]`, shares of fresh draws after training.
    draws: how many each run drew while it trained.
    settings: reward, KL weight, steps and batch.
    """

    masses: Tensor
    optimum: Tensor
    from_reference: Tensor
    handed: Tensor
    draws: int
    settings: MogSettings


def run_traps(
    masses: tuple[float, ...] = MASSES, seeds: tuple[int, ...] | range = range(3), settings: MogSettings = SETTINGS
) -> Traps:
    """Train all runs at once, every share and seed a row; about two seconds with the defaults.

    Args:
        masses: of the target in the reference, each between 0 and 1; its first target mode is the one that counts.
    """
    problem = Problem.of(settings)
    shares = torch.tensor(masses, dtype=torch.float64)
    rows = shares.repeat_interleave(len(seeds))
    reference = _with_share(problem, settings, rows)
    noise = SeedNoise(tuple(seeds) * len(masses))
    train = {
        "beta": settings.beta,
        "steps": settings.rlhf_steps,
        "batch": settings.rlhf_batch,
        "learning_rate": settings.rlhf_learning_rate,
    }

    def reach(init: GaussianMixture) -> Tensor:
        policy, _ = rlhf(init, reference, problem, noise, **train)
        points = policy.from_noise(noise.uniform("traps", _SCORING_DRAWS), noise.normal("traps", _SCORING_DRAWS, 2))
        return problem.on_target(points).double().mean(-1).view(len(masses), -1)

    handed = _with_share(problem, settings, torch.full_like(rows, _HANDED))
    draws = settings.rlhf_steps * settings.rlhf_batch
    optimum = _optimum(problem, settings, shares)
    return Traps(shares, optimum, reach(reference), reach(handed), draws, settings)


def _with_share(problem: Problem, settings: MogSettings, shares: Tensor) -> GaussianMixture:
    """The truth with its first target mode at each of `shares`, `[row]`; the others keep their proportions."""
    target = settings.targets[0]
    weights = torch.tensor(settings.truth_weights, dtype=torch.float64).repeat(len(shares), 1)
    weights[:, target] = 0
    weights *= (1 - shares).unsqueeze(-1) / weights.sum(-1, keepdim=True)
    weights[:, target] = shares
    truth = problem.truth.expand(len(shares))
    return GaussianMixture(weights.log(), truth.means, truth.log_sds)


def _optimum(problem: Problem, settings: MogSettings, shares: Tensor) -> Tensor:
    points = problem.grid()
    log_reference = torch.log_softmax(_with_share(problem, settings, shares).log_prob(points), -1)
    reward = problem.reward(points)
    optimum = theory.tilted_optimum(log_reference, reward, settings.beta)
    return theory.target_mass_of(optimum, problem.on_target(points))
