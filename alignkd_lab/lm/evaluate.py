"""The metrics of a policy on held-out prompts, at temperature 1, with nothing truncated.

Per-token means are pooled: the sum of log-probabilities over the sum of tokens. p_target is the truth tilted towards
the target, p*(y) [ε + (1 - ε) 1_T(y) / p*(T)] with ε = 0.01, so that a miss costs a fixed amount and not infinity.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch

from alignkd_lab.lm.batch import Example
from alignkd_lab.lm.context import Context, Earned, Policy
from alignkd_lab.lm.preference_data import Prompt
from alignkd_lab.lm.preferences import Pair, informative_pairs
from alignkd_lab.lm.rewards import TARGETS, Reward, Yardstick, scorer
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.scoring import TIE, pooled_mean
from alignkd_lab.lm.settings import EvaluationSettings
from alignkd_lab.lm.templates import end_ids
from alignkd_lab.stats import NAN, Interval, t_interval, wilson_interval

MISS = 0.01
# Raise it where its code, or a default of its settings, changes what it computes: results kept before then rest.
CODE = 3


class Evaluation:
    """Measures policies that came from one base: `of(policy)`, after which the held-out pairs are at hand."""

    def __init__(self, context: Context, reward: Reward, base: Policy, settings: EvaluationSettings) -> None:
        self._context, self._reward, self._base, self._settings = context, reward, base, settings

    def of(self, policy: Policy) -> dict:
        """`metrics` (a list of one value each), the counts behind them, and some responses to read."""
        settings, context, reward = self._settings, self._context, self._reward
        model = context.models.of(policy)
        count, responses = settings.test_prompts, settings.test_responses
        samples = context.sample(model, "test", count, responses, settings.max_tokens, "test")
        scores = reward.score(samples, policy)
        of_truth = reward.truth.samples("test", count, responses)
        texts = context.texts(samples)
        recalled = of_truth.log_probs if reward.truth.wrote(policy) else context.score(model, of_truth)
        found = metrics(samples.log_probs, recalled, texts, scores, reward.second_hits(texts), reward.yardstick)
        found |= self.against_base(policy, model, samples, scores.under_truth)
        asked = context.prompt_texts("test", count)
        # One response a prompt, the first: a fixed rule, so that nobody picks.
        shown = range(0, len(texts), responses)
        return {
            "metrics": {name: [value] for name, value in found.items()},
            "counts": {
                "responses": len(texts),
                "target": sum(scores.hits),
                "truth_target_rate": reward.yardstick.target_rate,
            },
            "samples": [
                {
                    "prompt": asked[samples.prompt_of[i]],
                    "response": texts[i],
                    "reward": scores.rewards[i],
                    "target": scores.hits[i],
                }
                for i in shown
            ],
        }

    def against_base(
        self, policy: Policy, model, samples: Samples, under_truth: list[torch.Tensor]
    ) -> dict[str, float]:
        """`kl_to_base`, nats a response, from the policy's own `samples`; `reward_accuracy` on held-out pairs.

        The accuracy is that of DPO's implicit reward, the log-ratio of policy and base: the share of pairs whose chosen
        response has the larger one, a tie counting one half; NaN where the base wrote no pair. `under_truth` are the
        samples' log-probabilities under the truth, which may be the base.
        """
        if policy.digest == self._base.digest:
            return {"kl_to_base": 0.0, "reward_accuracy": 0.5}
        context = self._context
        is_truth = self._reward.truth.wrote(self._base)
        under_base = under_truth if is_truth else context.score(context.models.of(self._base), samples)
        kl = sum(float((own - other).sum()) for own, other in zip(samples.log_probs, under_base, strict=True))
        drawn, pairs = self.heldout
        read = [index for pair in pairs for index in (pair.chosen, pair.rejected)]
        scored = context.score(model, drawn.only(read)) if read else []
        ratios = [float((own - drawn.log_probs[i]).sum()) for own, i in zip(scored, read, strict=True)]
        ranked = [(won > lost) + 0.5 * (won == lost) for won, lost in zip(ratios[::2], ratios[1::2], strict=True)]
        return {
            "kl_to_base": kl / len(samples.tokens),
            "reward_accuracy": sum(ranked) / len(ranked) if ranked else math.nan,
        }

    @cached_property
    def heldout(self) -> tuple[Samples, list[Pair]]:
        """The base's responses to test prompts, and the informative pairs among them, which no stage has seen."""
        settings, purpose = self._settings, "held-out pairs"
        drawn = self._context.keep_samples(
            self._base, "test", settings.test_prompts, settings.heldout_responses, settings.max_tokens, purpose
        )
        rewards = self._reward.earn(drawn, self._base).rewards
        return drawn, informative_pairs(drawn.prompt_of, rewards, self._context.seed_for(purpose))


def metrics(
    own: list[torch.Tensor], truth_under_policy: list[torch.Tensor], texts: list[str], scores: Earned,
    second_hits: list[bool] | None, stick: Yardstick,
) -> dict[str, float]:  # fmt: skip
    """The four metrics and what stands beside them; log-probabilities are in nats per token unless named otherwise.

    Args:
        own: log-probabilities of the policy's responses, `texts`, under the policy.
        truth_under_policy: of the truth's responses to the same prompts under the policy.
        scores: of the policy's responses.
        second_hits: whether each follows the second rule, which nothing rewards; None where there is none.
    """
    tokens = sum(map(len, own))
    bonus = [math.log(MISS + (1 - MISS) * hit / stick.target_rate) for hit in scores.hits]
    precision, entropy = pooled_mean(scores.under_truth), -pooled_mean(own)
    return {
        "reward": float(np.mean(scores.rewards)),
        "reward_bare": float(np.mean(scores.hits)),
        "fluency": float(np.mean(scores.fluency)),
        "target_rate": float(np.mean(scores.hits)),
        "second_rule_rate": math.nan if second_hits is None else float(np.mean(second_hits)),
        "target_precision": precision + sum(bonus) / tokens,
        "target_precision_per_sequence": float(np.mean([float(t.sum()) for t in scores.under_truth]) + np.mean(bonus)),
        "overall_precision": precision,
        "overall_recall": pooled_mean(truth_under_policy),
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


# Of somebody's model on their prompts and pairs, each with its interval over prompts ------------------------
# All are estimated on the model's own samples, untruncated but for the most tokens, except reward accuracy, which reads
# given pairs. Rewards and samples are arrays [prompts, responses].

Rewards = Callable[[Sequence[Prompt], list[str]], np.ndarray]


def read_reward(name: str, device: str) -> Rewards:
    """What pays answers: a target's rule (bool), or what `lm.rewards.scorer` takes (float)."""
    pays, kind = scorer(name, device), bool if name in TARGETS else float
    return lambda prompts, texts: np.array(pays([prompt.said for prompt in prompts], texts), dtype=kind)


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
    shape, texts = (len(samples.prompt_ids), -1), samples.texts(tokenizer)
    return {
        "entropy": Interval(-pooled_mean(log_probs), NAN, NAN),
        "length": over_prompts(np.array([float(len(tokens)) for tokens in samples.tokens]).reshape(shape)),
        "ended": over_prompts(np.array(samples.ended(end_ids(tokenizer))).reshape(shape)),
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


def reward_accuracy(pairs: list[Example], policy: list[float], reference: list[float]) -> Interval:
    """The share of pairs whose chosen response has the larger reward log pi - log pi_ref; ties count one half.

    Both are as `lm.scoring.response_log_probs` gives them; a difference within rounding is a tie. Wilson's interval for
    as many draws as there would be prompts if all had as many pairs, n = (Σ m)² / Σ m² for prompts with m pairs each
    (Kish): the pairs of a prompt say no more than one of them.
    """
    margins = np.subtract(*np.subtract(policy, reference).reshape(-1, 2).T)
    share = float(((margins > TIE) + 0.5 * (np.abs(margins) <= TIE)).mean())
    of_prompts = np.array(list(Counter(tuple(pair.prompt) for pair in pairs).values()))
    draws = float(of_prompts.sum() ** 2 / (of_prompts**2).sum())
    return wilson_interval(share * draws, draws)


def as_json(interval: Interval) -> dict[str, float | None] | None:
    """An interval as a record holds it: null where there is no estimate, and null bounds where there are none."""
    if not math.isfinite(interval.estimate):
        return None
    return {name: value if math.isfinite(value) else None for name, value in interval._asdict().items()}
