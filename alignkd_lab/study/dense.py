"""Dense preferences: a graded reward, and noisy labels of pairs that it tells apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from alignkd_lab.lm.context import Earned, Policy
from alignkd_lab.lm.preferences import Pair
from alignkd_lab.lm.rewards import sentiment
from alignkd_lab.lm.sampling import Samples

GAP, LABEL_TEMPERATURE = 0.05, 0.2


class Sentiment:
    """VADER's compound score as the reward (`lm.context.Reward`)."""

    def __init__(self, texts: Callable[[Samples], list[str]]) -> None:
        self._texts = texts

    def earn(self, samples: Samples, policy: Policy | None) -> Earned:
        rewards = [sentiment(text) for text in self._texts(samples)]
        return Earned(rewards, [reward > GAP for reward in rewards], 0)


def draw_pairs(samples: Samples, texts: list[str], rewards: list[float], count: int, seed: int | None) -> list[Pair]:
    """`count` disjoint pairs of distinct texts to one prompt, their rewards at least `GAP` apart.

    Drawn and labelled with `seed`, the better one chosen with probability σ(gap / 0.2); the first ones, and by the true
    order, where it is None.
    """
    generator = np.random.default_rng(0 if seed is None else seed)
    pairs = []
    for members in samples.by_prompt():
        distinct = list({texts[index]: index for index in reversed(members)}.values())
        order = generator.permutation(sorted(distinct)).tolist()
        for first, second in zip(order[::2], order[1::2], strict=False):
            gap = rewards[first] - rewards[second]
            if abs(gap) < GAP:
                continue
            won = gap > 0 if seed is None else generator.random() < 1 / (1 + np.exp(-gap / LABEL_TEMPERATURE))
            chosen, rejected = (first, second) if won else (second, first)
            pairs.append(Pair(samples.prompt_of[first], chosen, rejected))
    return [pairs[at] for at in np.sort(generator.permutation(len(pairs))[:count])]
