"""Tasks of notebook 01, with their solutions and typical wrong answers."""

from __future__ import annotations

import math

import torch

from alignkd_lab.course.exercises.tasks import Task
from alignkd_lab.course.exercises.write import Written


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


TASKS: dict[str, Task | Written] = {
    "first_draw": Task(
        prediction=True,
        question="Only the target pays, and the policy learns from its own draws. Does a larger reward bring the "
        "first draw of the target sooner?",
        options={"sooner": "yes, sooner", "same": "no, the wait stays the same", "later": "no, it even comes later"},
        solve=first_draw,
        because="Until the target has been drawn once, every draw earns nothing, so there is nothing to learn from. "
        "The wait depends on the target's share alone.",
    ),
    "handed_target": Task(
        prediction=True,
        question="A friend hands the policy the target: training starts where it shows the target half of the time. "
        "But the reference shows it once in a billion draws, the reward is 4, and β = 0.25. Where does RLHF end?",
        options={
            "keeps": "it keeps the target: it sees it, and is paid for it",
            "halfway": "it stays at about one half",
            "loses": "it gives the target up again",
        },
        solve=handed_target,
        because="For a target that the reference all but rules out, the penalty β log(π/π₀) is larger than the reward. "
        "Here the target is drawn often enough, but it does not pay.",
    ),
    "smallest_reward": Task(
        question="The target's share in the reference is m₀ = 0.01, and the KL weight is β = 0.5. Above which reward R "
        "does the target win, m* > ½?",
        solve=smallest_reward,
        because="R = β log((1 − m₀) / m₀): here the tilt e^(R/β) has just made up for the odds of 99 to 1.",
        hint="Set m* = ½ in the tilted optimum: m₀ e^(R/β) = 1 − m₀. Solve it for R.",
        distractors={
            math.log(99): "That is R/β. Multiply by the KL weight β.",
            0.5 * math.log10(99): "That is a logarithm to base 10. The tilt is e^(R/β), so take the natural one.",
            -0.5 * math.log(99): "The sign is wrong: the target is rare, so its odds are 1 to 99, not 99 to 1.",
        },
        tolerance=0.005,
    ),
    "draws_for_sight": Task(
        question="With the same m₀ = 0.01: how many draws show the target at least once with a chance of 95 %?",
        solve=draws_for_sight,
        because="There 1 − (1 − m₀)ⁿ reaches 0.95. To be that sure of one target takes three times the mean wait.",
        hint="All n draws miss with probability (1 − m₀)ⁿ. What is the smallest whole n for which that is at most 5 %?",
        distractors={
            100: "1/m₀ is the mean wait. After that many draws more than a third have still seen no target.",
            298: "Nearly: 298 draws stay just below 95 %. Round up.",
        },
        tolerance=0.001,
    ),
    "write_tilt": Written(
        question="Write tilt(reference, rewards, beta): the best policy for these rewards and this KL weight. "
        "`reference` holds the probabilities of V outcomes, `rewards` their rewards, both tensors [V]; return [V].",
        solve=tilt,
        inputs=tilt_calls,
        because="The reference times e^{R/β}, over its sum: the reward multiplies what the reference does.",
        hint="Multiply the reference by e^{R/β}, outcome by outcome, and divide by the sum over outcomes.",
        mistakes={
            " / tilted.sum() → ": "Those do not sum to 1. The ∝ of the formula says: divide by the sum over all "
            "outcomes.",
            "rewards / beta → rewards * beta": "β is on the wrong side: a higher price of KL must make the tilt "
            "weaker. Divide the reward by β.",
            "rewards / beta → rewards": "β is missing: it is R/β.",
            "rewards / beta → -rewards / beta": "The sign is wrong: this makes what pays rarer.",
            "reference * torch → torch": "The reference is missing: this policy would say what pays, however unlike "
            "the reference.",
            "reference * torch.exp( → torch.exp(reference + ": "A softmax takes logarithms: it is log π₀ + R/β, not π₀ "
            "+ R/β.",
            "tilted / tilted.sum() → (tilted / tilted.sum()).softmax(-1)": "One softmax too many: its input was "
            "already a distribution.",
        },
    ),
}
