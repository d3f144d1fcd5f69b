"""Closed forms behind both worlds: where alignment ends, when it can see its target, what each rule weighs.

Every function is pure. It takes floats, NumPy arrays or tensors, broadcasts them, and returns a tensor
(float64 unless it was given a tensor of another type). Probabilities are plain or, where they may be
tiny, logarithms in nats. "Finite set" means that the last axis lists all outcomes: the responses of a
toy problem, or the cells of a grid, whose log-probability is log-density plus log-area.

Sources: the KL-regularised objective and its optimum are standard (Order, section 2, uses them); the
recall threshold and the sampling and learning traps are Order's argument, in our own algebra.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from alignkd_lab.errors import BadInput

# Floats, sequences and NumPy arrays are turned into float64 tensors; tensors are taken as they are.
Number = float | Sequence | np.ndarray | Tensor


def _tensor(value) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)


def _positive(name: str, value) -> Tensor:
    value = _tensor(value)
    if not bool((value > 0).all()):
        raise BadInput(f"{name} must be above 0, not {value.min().item():g}")
    return value


def _probability(name: str, value) -> Tensor:
    value = _tensor(value)
    if not bool(((value >= 0) & (value <= 1)).all()):
        raise BadInput(f"{name} must be a probability between 0 and 1")
    return value


# The objective and its optimum ------------------------------------------------------------------------


def shaped_reward(reward: Number, log_policy: Number, log_reference: Number, beta: Number) -> Tensor:
    """r' = R - beta log(pi / reference): the reward that a policy gradient climbs (Order, RL objective)."""
    return _tensor(reward) - _tensor(beta) * (_tensor(log_policy) - _tensor(log_reference))


def objective(log_policy: Number, log_reference: Number, reward: Number, beta: Number) -> Tensor:
    """J = E_policy[R] - beta KL(policy || reference) on a finite set `[..., outcome]` -> `[...]`."""
    policy = _tensor(log_policy).exp()
    shaped = shaped_reward(reward, log_policy, log_reference, beta)
    # An outcome of probability 0 adds nothing, also where its shaped reward is infinite.
    return torch.where(policy > 0, policy * shaped, 0.0).sum(-1)


def optimal_value(log_reference: Number, reward: Number, beta: Number) -> Tensor:
    """J* = beta log Z, Z = E_reference[exp(R / beta)]: the most that a policy can reach, `[..., outcome]` -> `[...]`.

    J* - J(pi) = beta KL(pi || pi*) >= 0 for every policy pi.
    """
    beta = _positive("beta", beta)
    return beta * (_tensor(log_reference) + _tensor(reward) / beta).logsumexp(-1)


def tilted_optimum(log_reference: Number, reward: Number, beta: Number) -> Tensor:
    """log pi*, pi* ~ reference exp(R / beta), normalised over a finite set `[..., outcome]`."""
    return torch.log_softmax(_tensor(log_reference) + _tensor(reward) / _positive("beta", beta), -1)


# The recall threshold ---------------------------------------------------------------------------------


def target_mass(reference_mass: Number, reward: Number, beta: Number) -> Tensor:
    """m* = m0 e^{R/beta} / (m0 e^{R/beta} + 1 - m0): the optimum's mass on a target that alone pays."""
    odds = torch.logit(_probability("reference_mass", reference_mass))
    return torch.sigmoid(odds + _tensor(reward) / _positive("beta", beta))


def recall_threshold(reference_mass: Number, beta: Number = 1.0) -> Tensor:
    """Least reward for which the target wins, m* > 1/2: R > beta log((1 - m0) / m0)."""
    return -_positive("beta", beta) * torch.logit(_probability("reference_mass", reference_mass))


def target_mass_of(log_policy: Number, on_target) -> Tensor:
    """Mass of a policy on the target set: log-probabilities and a mask, `[..., outcome]` -> `[...]`."""
    log_policy = _tensor(log_policy)
    return (log_policy.exp() * torch.as_tensor(on_target)).sum(-1)


# The sampling trap ------------------------------------------------------------------------------------


def chance_of_target(target_rate: Number, draws: Number) -> Tensor:
    """P(at least one target in n draws) = 1 - (1 - m0)^n, exact also for a tiny m0."""
    rate = _probability("target_rate", target_rate)
    return -torch.expm1(_tensor(draws) * torch.log1p(-rate))


def expected_draws(target_rate: Number) -> Tensor:
    """Draws until the first target, on average: 1 / m0; infinite at m0 = 0."""
    return 1 / _probability("target_rate", target_rate)


def draws_for_chance(target_rate: Number, chance: Number) -> Tensor:
    """Draws that hold a target with the given chance: log(1 - chance) / log(1 - m0), not rounded."""
    rate = _probability("target_rate", target_rate)
    return torch.log1p(-_probability("chance", chance)) / torch.log1p(-rate)


def informative_pair_probability(target_rate: Number, responses: Number) -> Tensor:
    """P(n responses hold both a target and a miss) = 1 - (1 - m0)^n - m0^n: else a prompt yields no pair."""
    rate = _probability("target_rate", target_rate)
    return chance_of_target(rate, responses) - rate ** _tensor(responses)


# What DPO weighs --------------------------------------------------------------------------------------


def bradley_terry(reward: Number, other_reward: Number) -> Tensor:
    """P(the first is preferred) = sigmoid(R - R')."""
    return torch.sigmoid(_tensor(reward) - _tensor(other_reward))


def dpo_weight(policy_margin: Number, reference_margin: Number, beta: Number) -> Tensor:
    """sigmoid(-beta (Delta_policy - Delta_reference)), Delta = log p(chosen) - log p(rejected).

    The gradient of DPO's loss is -beta * weight * gradient(Delta_policy). The weight starts at 1/2 whatever
    the reference is; with a very negative Delta_reference it fades while Delta_policy is still negative.
    """
    return torch.sigmoid(-_tensor(beta) * (_tensor(policy_margin) - _tensor(reference_margin)))
