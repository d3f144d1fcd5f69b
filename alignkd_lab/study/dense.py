"""Dense preferences: a graded reward, noisy labels of pairs that it tells apart, and a second score beside it.

`python -m alignkd_lab.study.dense FOLDER FILE.zip` packs experiment 1's records, every response scored by AFINN, too
(`pip install afinn`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from alignkd_lab import records
from alignkd_lab.lm.preferences import Pair
from alignkd_lab.lm.sampling import Samples

GAP, LABEL_TEMPERATURE = 0.05, 0.2


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


def with_second_score(held: records.Records, score: Callable[[str], float]) -> records.Records:
    """The records with `afinn`, the mean of `score` over responses, beside the other metrics."""
    place = ["run", "seed", "pipeline"]
    means = held.responses.assign(value=held.responses["response"].map(score)).groupby(place)["value"].mean()
    heads = held.metrics.drop(columns=["metric", "value"]).drop_duplicates()
    added = heads.merge(means.reset_index(), on=place).assign(metric="afinn")
    return replace(held, metrics=pd.concat([held.metrics, added], ignore_index=True))


if __name__ == "__main__":
    from afinn import Afinn

    folder, file = map(Path, sys.argv[1:])
    print(records.pack(with_second_score(records.load(folder), Afinn().score), file))
