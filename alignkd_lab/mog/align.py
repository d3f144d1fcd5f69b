"""Alignment in the Gaussian world: RLHF by policy gradient, and DPO.

Both climb along sum_n c_n grad log pi(x_n) and differ only in where the points x_n come from and what
coefficient c_n each gets: RLHF draws its own points and weighs them by their advantage, DPO keeps the
pairs that it was given and weighs them by how wrong the policy still is about them.

Left out, compared with PPO: clipping, several passes over one batch, a learned value function. The
gradient here is the plain score-function estimate on fresh draws, with the batch mean as baseline.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from alignkd_lab import theory
from alignkd_lab.errors import CannotContinue
from alignkd_lab.mog.mixture import GaussianMixture, Gradient, SeedNoise
from alignkd_lab.mog.problem import Problem
from alignkd_lab.mog.settings import DpoSettings, RlhfSettings

_CURVE_POINTS = 20
_CURVE_DRAWS = 1000

# From a policy and the number of the step, the direction to climb.
Direction = Callable[[GaussianMixture, int], Gradient]


@dataclass(frozen=True)
class Pairs:
    """Preference pairs: chosen and rejected points, `[seed, pair, dimension]` each.

    informative: `[seed]`, how many pairs hold exactly one point on the target (reward at least half of the
    bump's height): only these say anything about the target.
    """

    chosen: Tensor
    rejected: Tensor
    informative: Tensor


def rlhf(
    init: GaussianMixture,
    reference: GaussianMixture,
    problem: Problem,
    noise: SeedNoise,
    settings: RlhfSettings,
    seen: Callable[[GaussianMixture, int], None] | None = None,
) -> tuple[GaussianMixture, dict]:
    """On-policy policy gradient on r' = R - beta log(pi / reference), from `init`; the policy and its curve.

    `seen`, if given, is called with the policy before each step, and the step's number.
    """
    steps, batch = settings.rlhf_steps, settings.rlhf_batch
    uniforms = noise.uniform("rlhf", steps, batch)
    normals = noise.normal("rlhf", steps, batch, init.means.shape[-1])

    def direction(policy: GaussianMixture, step: int) -> Gradient:
        if seen is not None:
            seen(policy, step)
        points = policy.from_noise(uniforms[:, step], normals[:, step])
        log_prob, pull = policy.log_prob_and_pull(points)
        shaped = theory.shaped_reward(problem.reward(points), log_prob, reference.log_prob(points), settings.beta)
        # Dividing by batch - 1 undoes the bias of a baseline that contains the point itself.
        return pull((shaped - shaped.mean(-1, keepdim=True)) / (batch - 1))

    return _climb(init, reference, problem, noise, direction, steps, settings.rlhf_learning_rate)


def dpo(
    init: GaussianMixture,
    reference: GaussianMixture,
    pairs: Pairs,
    problem: Problem,
    noise: SeedNoise,
    settings: DpoSettings,
) -> tuple[GaussianMixture, dict]:
    """Descent on -log sigmoid(beta [Delta_pi - Delta_reference]) from `init`, minibatch by minibatch."""
    count, batch, beta = pairs.chosen.shape[-2], settings.dpo_batch, settings.beta
    reference_margin = reference.log_prob(pairs.chosen) - reference.log_prob(pairs.rejected)

    def direction(policy: GaussianMixture, step: int) -> Gradient:
        here = (torch.arange(batch, device=reference_margin.device) + step * batch) % count
        points = torch.cat([pairs.chosen[:, here], pairs.rejected[:, here]], -2)
        log_prob, pull = policy.log_prob_and_pull(points)
        chosen, rejected = log_prob.chunk(2, -1)
        weight = beta * theory.dpo_weight(chosen - rejected, reference_margin[:, here], beta) / batch
        return pull(torch.cat([weight, -weight], -1))

    return _climb(init, reference, problem, noise, direction, settings.dpo_steps, settings.dpo_learning_rate)


def sample_pairs(sampler: GaussianMixture, problem: Problem, noise: SeedNoise, settings: DpoSettings) -> Pairs:
    """`dpo_pairs` pairs of draws from `sampler`, labelled by Bradley-Terry on their rewards, some flipped."""
    count = settings.dpo_pairs
    draws = sampler.draw(noise, "pairs", 2 * count)
    reward = problem.reward(draws)
    (first, second), (reward_first, reward_second) = draws.chunk(2, -2), reward.chunk(2, -1)
    on_first, on_second = problem.on_target(draws).chunk(2, -1)
    prefers_first = noise.uniform("labels", count) < theory.bradley_terry(reward_first, reward_second)
    flipped = noise.uniform("label noise", count) < settings.dpo_label_noise
    keep = (prefers_first ^ flipped).unsqueeze(-1)
    return Pairs(torch.where(keep, first, second), torch.where(keep, second, first), (on_first ^ on_second).sum(-1))


def _climb(
    init: GaussianMixture,
    reference: GaussianMixture,
    problem: Problem,
    noise: SeedNoise,
    direction: Direction,
    steps: int,
    learning_rate: float,
) -> tuple[GaussianMixture, dict]:
    """Adam up the gradient, its rate falling linearly to 0, so that the end is no noisy iterate.

    With the policy: `curve`, its reward and its KL to the reference along training, and the last of both `per_seed`.
    """
    ascent, curve = Adam((init.log_weights, init.means, init.log_sds)), []
    # Every look at the policy is on the same fresh noise.
    look = noise.uniform("curve", _CURVE_DRAWS), noise.normal("curve", _CURVE_DRAWS, reference.means.shape[-1])

    def note(step: int, policy: GaussianMixture) -> dict:
        points = policy.from_noise(*look)
        reward = problem.reward(points).mean(-1)
        kl = (policy.log_prob(points) - reference.log_prob(points)).mean(-1)
        curve.append({"step": step, "reward": reward.mean().item(), "kl": kl.mean().item()})
        return {"final_reward": reward.tolist(), "final_kl": kl.tolist()}

    marks = {round(i * steps / _CURVE_POINTS) for i in range(_CURVE_POINTS)}
    policy = init
    for step in range(steps):
        if step in marks:
            note(step, policy)
        logits, means, log_sds = ascent.step(direction(policy, step), learning_rate * (1 - step / steps))
        policy = GaussianMixture(torch.log_softmax(logits, -1), means, log_sds)
        if (policy.log_weights.sum() + means.sum() + log_sds.sum()).isnan():
            raise CannotContinue(
                f"alignment: step {step + 1} of {steps} left a policy that is not a number; lower the learning rate "
                f"({learning_rate:g}), or look at the settings that were changed"
            )
    per_seed = note(steps, policy)
    return policy, {"curve": curve, "per_seed": per_seed}


class Adam:
    """Adam (Kingma and Ba 2015) uphill, with its usual constants.

    Torch's own optimiser gives the same numbers, at more than the price of a whole step of these models.
    """

    def __init__(self, parameters: tuple[Tensor, ...]) -> None:
        self.parameters = parameters
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]
        self.steps = 0

    def step(self, gradients: Gradient, learning_rate: float) -> tuple[Tensor, ...]:
        """The parameters after one more step, as new tensors."""
        self.steps += 1
        scale = learning_rate * math.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        epsilon = 1e-8 * math.sqrt(1 - 0.999**self.steps)
        self.first = [0.9 * m + 0.1 * g for m, g in zip(self.first, gradients, strict=True)]
        self.second = [0.999 * v + 0.001 * g * g for v, g in zip(self.second, gradients, strict=True)]
        moves = zip(self.parameters, self.first, self.second, strict=True)
        self.parameters = tuple(p + scale * m / (v.sqrt() + epsilon) for p, m, v in moves)
        return self.parameters
