"""The metrics of somebody's model on their prompts and pairs, each with its interval over prompts.

All are estimated on the model's own samples at temperature 1, untruncated but for the most tokens, except reward
accuracy, which reads given pairs. Rewards and samples are arrays [prompts, responses].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from alignkd_lab.lm.answers import ended, texts_of
from alignkd_lab.lm.batch import Example
from alignkd_lab.lm.evaluate import distinct_n
from alignkd_lab.lm.measured import TIE
from alignkd_lab.lm.own_prompts import Prompt
from alignkd_lab.lm.rewards import TARGETS, apply_rule, scorer, target
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.scoring import pooled_mean, score
from alignkd_lab.stats import NAN, Interval, t_interval, wilson_interval

Rewards = Callable[[Sequence[Prompt], list[str]], np.ndarray]


def read_reward(name: str, device: str) -> Rewards:
    """What pays answers: a target's rule (bool), or what `lm.rewards.scorer` takes (float)."""
    if name in TARGETS:
        return lambda prompts, texts: np.array(apply_rule(name, target(name), texts))
    score = scorer(name, device)
    return lambda prompts, texts: np.array(score([prompt.said for prompt in prompts], texts))


def over_prompts(values: np.ndarray) -> Interval:
    """The mean of [prompts, responses] with its interval over prompts: Wilson's for bool, where a share may be 0 or 1.

    Else Student's t. The responses to one prompt count as one.
    """
    means = values.mean(axis=1)
    return wilson_interval(float(means.sum()), len(means)) if values.dtype == bool else t_interval(means)


def win_rate(first: np.ndarray, second: np.ndarray) -> Interval:
    """How often a response of the first model earns more than one of the second to the same prompt; a tie is one half.

    All pairs of a prompt's responses are compared. Wilson's interval over prompts, which ties make too wide and never
    too narrow.
    """
    won = (first[:, :, None] > second[:, None, :]) + 0.5 * (first[:, :, None] == second[:, None, :])
    return wilson_interval(float(won.mean(axis=(1, 2)).sum()), len(first))


def of_samples(samples: Samples, log_probs: list[torch.Tensor], tokenizer) -> dict[str, Interval]:
    """Entropy (nats a token), length (tokens, with the end token), the share that ended by itself, distinct n-grams.

    `log_probs` are those of the samples under the model that wrote them. The estimates that are ratios of sums over all
    responses have no interval.
    """
    shape, texts = (len(samples.prompt_ids), -1), texts_of(tokenizer, samples)
    return {
        "entropy": Interval(-pooled_mean(log_probs), NAN, NAN),
        "length": over_prompts(np.array([float(len(tokens)) for tokens in samples.tokens]).reshape(shape)),
        "ended": over_prompts(np.array(ended(tokenizer, samples)).reshape(shape)),
        "distinct_1": Interval(distinct_n(texts, 1), NAN, NAN),
        "distinct_2": Interval(distinct_n(texts, 2), NAN, NAN),
    }


def kl_to_reference(
    samples: Samples, log_probs: list[torch.Tensor], under_reference: list[torch.Tensor]
) -> dict[str, Interval]:
    """KL(pi || pi_ref): the mean of log pi - log pi_ref over the policy's own samples, nats a token and a response."""
    ratios = np.array([float((own - other).double().sum()) for own, other in
                       zip(log_probs, under_reference, strict=True)])  # fmt: skip
    return {
        "kl_per_token": Interval(float(ratios.sum()) / samples.token_count, NAN, NAN),
        "kl_per_response": over_prompts(ratios.reshape(len(samples.prompt_ids), -1)),
    }


def pair_log_probs(model, pairs: list[Example], dtype: torch.dtype) -> np.ndarray:
    """log pi of [chosen, rejected] given the prompt, nats, [pairs, 2]."""
    samples = Samples([list(pair.prompt) for pair in pairs], [at for at, _ in enumerate(pairs) for _ in range(2)],
                      [list(tokens) for pair in pairs for tokens in pair.responses])  # fmt: skip
    return np.array([float(tokens.double().sum()) for tokens in score(model, samples, dtype=dtype)]).reshape(-1, 2)


def reward_accuracy(pairs: list[Example], policy: np.ndarray, reference: np.ndarray) -> Interval:
    """The share of pairs whose chosen response has the larger reward log pi - log pi_ref; ties count one half.

    Both are as `pair_log_probs` gives them; a difference within rounding is a tie. Wilson's interval, in which the
    pairs of one prompt count as one.
    """
    margins = np.subtract(*(policy - reference).T)
    share = float(((margins > TIE) + 0.5 * (np.abs(margins) <= TIE)).mean())
    prompts = len({tuple(pair.prompt) for pair in pairs})
    return wilson_interval(share * prompts, prompts)


def as_json(interval: Interval) -> dict[str, float | None] | None:
    """An interval as a record holds it: null where there is no estimate, and null bounds where there are none."""
    if not math.isfinite(interval.estimate):
        return None
    return {name: value if math.isfinite(value) else None for name, value in interval._asdict().items()}
