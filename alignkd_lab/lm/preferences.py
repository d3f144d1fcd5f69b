"""Preference pairs from scored responses: what a sampler never wrote, no pair can teach."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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


def mislabelled(pairs: list[Pair], chance: float, seed: int) -> list[Pair]:
    """The pairs, each with chosen and rejected exchanged by this chance: a judge who errs."""
    draws = np.random.default_rng(seed).random(len(pairs))
    return [
        Pair(pair.prompt, pair.rejected, pair.chosen) if draw < chance else pair
        for pair, draw in zip(pairs, draws, strict=True)
    ]
