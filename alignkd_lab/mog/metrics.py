"""The metrics of a policy in the Gaussian world, with exact densities (definitions: Order and KD-MWE)."""

from __future__ import annotations

from torch import Tensor

from alignkd_lab.mog.mixture import GaussianMixture
from alignkd_lab.mog.problem import Problem


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
