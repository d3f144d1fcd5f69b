"""Preference pairs from scored responses: what a sampler never wrote, no pair can teach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from alignkd_lab.lm.batch import Example
from alignkd_lab.lm.context import Context, Earned, Policy, Reward
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.settings import PairSettings
from alignkd_lab.results import Cost


@dataclass(frozen=True)
class Pair:
    """Indices, into the samples, of a chosen and a rejected response to one prompt."""

    prompt: int
    chosen: int
    rejected: int


def informative_pairs(prompt_of: list[int], rewards: list[float], seed: int, gap: float = 1e-6) -> list[Pair]:
    """Best with worst, second best with second worst, ... of each prompt, while the rewards differ by over `gap`.

    Ties are broken by chance, so that the rejected responses of a rule reward are random ones. Each response serves at
    most once. The number of pairs is the sampling trap made visible: for a 0/1 reward it is the smaller of the two
    counts.
    """
    generator = np.random.default_rng(seed)
    by_prompt: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompt_of):
        by_prompt.setdefault(prompt, []).append(index)
    pairs = []
    for prompt, members in by_prompt.items():
        shuffled = generator.permutation(members)
        ranked = sorted(shuffled.tolist(), key=lambda index: -rewards[index])
        for best, worst in zip(ranked[: len(ranked) // 2], reversed(ranked), strict=False):
            if rewards[best] - rewards[worst] <= gap:
                break
            pairs.append(Pair(prompt, best, worst))
    return pairs


def pair_examples(samples: Samples, pairs: list[Pair]) -> list[Example]:
    """The responses [chosen, rejected] of each pair."""
    return [
        Example(
            samples.prompt_ids[pair.prompt],
            [samples.tokens[pair.chosen], samples.tokens[pair.rejected]],
            ["chosen", "rejected"],
        )
        for pair in pairs
    ]


def flip_labels(pairs: list[Pair], chance: float, seed: int) -> list[Pair]:
    """The pairs, each with chosen and rejected exchanged by this chance: labels by somebody who errs."""
    draws = np.random.default_rng(seed).random(len(pairs))
    return [
        Pair(pair.prompt, pair.rejected, pair.chosen) if draw < chance else pair
        for pair, draw in zip(pairs, draws, strict=True)
    ]


class Preferences(NamedTuple):
    """A policy's responses to training prompts, what they earned, and the informative pairs among them.

    `counts` says how many pairs there are and, where labels are noisy, how many of them are wrong.
    """

    samples: Samples
    earned: Earned
    pairs: list[Pair]
    counts: dict[str, int]
    cost: Cost


def draw_preferences(context: Context, reward: Reward, sampler: Policy, settings: PairSettings) -> Preferences:
    """Sampling is a cost of the stage that asks, also where another one had the samples drawn and they are kept.

    Some pairs are mislabelled where the settings say so (`dpo_label_noise`).
    """
    samples = context.keep_samples(
        sampler, "training", settings.preference_prompts, settings.preference_responses, settings.max_tokens,
        "preferences",
    )  # fmt: skip
    earned = reward.earn(samples, sampler)
    pairs = informative_pairs(samples.prompt_of, earned.rewards, context.seed_for("pairs"))
    pairs = flip_labels(pairs, settings.dpo_label_noise, context.seed_for("labels"))
    counts = {"informative_pairs": len(pairs)}
    if settings.dpo_label_noise:
        counts["flipped_pairs"] = sum(earned.rewards[pair.chosen] < earned.rewards[pair.rejected] for pair in pairs)
    cost = Cost(sampled=samples.token_count, scored=earned.tokens, seconds_before=samples.seconds_before)
    return Preferences(samples, earned, pairs, counts, cost)
