"""The metrics of a policy on held-out prompts, at temperature 1, with nothing truncated.

Per-token means are pooled: the sum of log-probabilities over the sum of tokens. p_target is the truth tilted towards
the target, p*(y) [ε + (1 - ε) 1_T(y) / p*(T)] with ε = 0.01, so that a miss costs a fixed amount and not infinity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from alignkd_lab.lm.scoring import pooled

MISS = 0.01


@dataclass(frozen=True)
class Yardstick:
    """What the truth says before any policy is judged: from its own validation samples.

    Attributes:
        q05, q50: quantiles of its mean log-likelihood per token, nats.
        target_rate: p*(T), a share.
        responses: how many samples they come from.
    """

    q05: float
    q50: float
    target_rate: float
    responses: int


def yardstick(log_probs: list[torch.Tensor], hits: list[bool]) -> Yardstick:
    means = [float(tokens.mean()) for tokens in log_probs]
    q05, q50 = np.quantile(means, [0.05, 0.5])
    # Half a hit is added, so that a target which the truth never showed still has a finite p_target.
    return Yardstick(float(q05), float(q50), (sum(hits) + 0.5) / (len(hits) + 1), len(hits))


def metrics(
    own: list[torch.Tensor],
    under_truth: list[torch.Tensor],
    truth_under_policy: list[torch.Tensor],
    texts: list[str],
    rewards: list[float],
    fluency: list[float],
    hits: list[bool],
    second_hits: list[bool],
    stick: Yardstick,
) -> dict[str, float]:
    """The four metrics and what stands beside them; log-probabilities are in nats per token unless named otherwise.

    Args:
        own: log-probabilities of the policy's responses under the policy.
        under_truth: of the same responses under the truth.
        truth_under_policy: of the truth's responses to the same prompts under the policy.
        hits, second_hits: whether each response follows the target's rule, and the second rule that nothing rewards.
    """
    tokens = sum(map(len, own))
    bonus = [math.log(MISS + (1 - MISS) * hit / stick.target_rate) for hit in hits]
    precision, entropy = pooled(under_truth), -pooled(own)
    return {
        "reward": float(np.mean(rewards)),
        "reward_bare": float(np.mean(hits)),
        "fluency": float(np.mean(fluency)),
        "target_rate": float(np.mean(hits)),
        "second_rule_rate": float(np.mean(second_hits)),
        "target_precision": precision + sum(bonus) / tokens,
        "target_precision_per_sequence": float(np.mean([float(t.sum()) for t in under_truth]) + np.mean(bonus)),
        "overall_precision": precision,
        "overall_recall": pooled(truth_under_policy),
        "entropy": entropy,
        "kl_to_truth": -entropy - precision,
        "length": tokens / len(own),
        "distinct_responses": len(set(texts)) / len(texts),
        "distinct_2": distinct_n(texts, 2),
    }


def distinct_n(texts: list[str], n: int) -> float:
    """Distinct n-grams of words over all n-grams of words (Li and others 2016); NaN where there is none."""
    grams = [gram for text in texts for gram in zip(*(text.lower().split()[at:] for at in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else math.nan
