"""The metrics of a policy on held-out prompts, at temperature 1, with nothing truncated.

Per-token means are pooled: the sum of log-probabilities over the sum of tokens. p_target is the truth tilted towards
the target, p*(y) [ε + (1 - ε) 1_T(y) / p*(T)] with ε = 0.01, so that a miss costs a fixed amount and not infinity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from alignkd_lab.lm.batch import Example, collate, hidden_states
from alignkd_lab.lm.fused import default_chunk, token_log_probs
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.trainer import products

MISS = 0.01


@torch.inference_mode()
def score(model, samples: Samples, batch: int = 96) -> list[torch.Tensor]:
    """log π(token) at temperature 1 of every token of the samples under `model`: a tensor a response."""
    members: dict[int, list[int]] = {}
    for index, prompt in enumerate(samples.prompt_of):
        members.setdefault(prompt, []).append(index)
    scored: list[torch.Tensor] = [torch.empty(0)] * len(samples.tokens)
    group: list[tuple[int, list[int]]] = []

    def flush() -> None:
        rows = [Example(samples.prompt_ids[prompt], [samples.tokens[i] for i in chosen]) for prompt, chosen in group]
        with products(model.device):
            packed = collate(rows)
            labels = packed["shift_labels"].to(model.device)
            states, head = hidden_states(model, packed), model.lm_head.weight
            log_probs = token_log_probs(states, head, labels, default_chunk(head)).cpu()
        indices = [i for _, chosen in group for i in chosen]
        pieces = log_probs.split([len(samples.tokens[i]) for i in indices])
        for index, piece in zip(indices, pieces, strict=True):
            scored[index] = piece.float()
        group.clear()

    for prompt, chosen in sorted(members.items(), key=lambda item: len(samples.prompt_ids[item[0]])):
        group.append((prompt, chosen))
        if sum(len(chosen) for _, chosen in group) >= batch:
            flush()
    if group:
        flush()
    return scored


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


def pooled(log_probs: list[torch.Tensor]) -> float:
    """Mean over all tokens, nats per token."""
    return float(sum(tokens.sum() for tokens in log_probs) / sum(map(len, log_probs)))


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
