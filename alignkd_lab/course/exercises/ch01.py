"""Solutions and data of notebook 01."""

from __future__ import annotations

import torch


def first_draw() -> str:
    import math
    import random

    waits = []
    for reward in (1.0, 100.0):
        noise, logit, on_target, draws = random.Random(0), math.log(0.01 / 0.99), False, 0
        while not on_target:
            share = 1 / (1 + math.exp(-logit))
            on_target, draws = noise.random() < share, draws + 1
            earned = reward if on_target else 0.0
            logit += 0.1 * earned * (on_target - share)  # policy gradient: nothing earned, nothing learned
        waits.append(draws)
    return "same" if waits[0] == waits[1] else "sooner" if waits[1] < waits[0] else "later"


def handed_target() -> str:
    from alignkd_lab import theory

    end = theory.target_mass(reference_mass=1e-9, reward=4.0, beta=0.25).item()
    return "keeps" if end > 0.75 else "halfway" if end > 0.25 else "loses"


def smallest_reward() -> float:
    import math

    reference_mass, beta = 0.01, 0.5
    return beta * math.log((1 - reference_mass) / reference_mass)


def draws_for_sight() -> int:
    import math

    reference_mass, chance = 0.01, 0.95
    # 1 - (1 - m0)^n >= chance, solved for n, and rounded up to a whole draw.
    return math.ceil(math.log(1 - chance) / math.log(1 - reference_mass))


def tilt(reference, rewards, beta):
    tilted = reference * torch.exp(rewards / beta)
    return tilted / tilted.sum()


def tilt_calls() -> list[tuple]:
    """Two references over five outcomes, their rewards, and beta."""
    noise = torch.Generator().manual_seed(1)
    draws = [torch.randn(2, 5, generator=noise, dtype=torch.float64) for _ in range(2)]
    return [(logits.softmax(-1), rewards, beta) for (logits, rewards), beta in zip(draws, (0.5, 2.0), strict=True)]
