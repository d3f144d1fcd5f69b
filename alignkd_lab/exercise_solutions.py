"""The solutions of the course's predictions and exercises, and the slips that lead to typical wrong answers.

A solution is an ordinary function that imports what it needs: learners read its source, tests run it, and
`exercises.check` compares with what it returns. Wrong answers are computed like right ones. Where an
outcome was measured, it is read from the recorded runs and the shipped student, so it changes with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# 00 -----------------------------------------------------------------------------------------------------


def order_guess() -> str:
    from alignkd_lab.exercises import recorded_gaussians
    from alignkd_lab.metrics import A_K, K_A, paired_difference
    from alignkd_lab.records import seed_values

    values = seed_values(recorded_gaussians())
    rewards = [[values[name]["reward"][seed] for seed in sorted(values[A_K]["reward"])] for name in (A_K, K_A)]
    difference = paired_difference(*rewards)
    if difference.low > 0:
        return "A-K"
    return "K-A" if difference.high < 0 else "no difference"


# 01 -----------------------------------------------------------------------------------------------------


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

    end = theory.target_mass(anchor_mass=1e-9, reward=4.0, beta=0.25).item()
    return "keeps" if end > 0.75 else "halfway" if end > 0.25 else "loses"


def smallest_reward() -> float:
    import math

    anchor_mass, beta = 0.01, 0.5
    return beta * math.log((1 - anchor_mass) / anchor_mass)


def draws_for_sight() -> int:
    import math

    anchor_mass, chance = 0.01, 0.95
    # 1 - (1 - m0)^n >= chance, solved for n, and rounded up to a whole draw.
    return math.ceil(math.log(1 - chance) / math.log(1 - anchor_mass))


# 02 -----------------------------------------------------------------------------------------------------


def rare_weight() -> float:
    weights, s = [0.33, 0.33, 0.30, 0.04], 2
    powers = [weight**s for weight in weights]
    return powers[-1] / sum(powers)


def ring_to_rescore() -> dict:
    """The set-up of KD-MWE, seed 0: the judges and the draws that one might score."""
    from alignkd_lab.mog.noise import SeedNoise
    from alignkd_lab.mog.ring import run_ring

    ring, noise = run_ring((0,)), SeedNoise((0,))

    def draws(mixture) -> Tensor:
        return mixture.from_noise(noise.uniform("rescoring", 2000), noise.normal("rescoring", 2000, 2))

    models = {"truth": ring.truth, "direct": ring.direct, "distilled": ring.distilled}
    return {
        "truth": ring.truth,
        "sharpened_teacher": ring.sharpened,
        **{f"{name}_draws": draws(mixture) for name, mixture in models.items()},
    }


def rescored_precision() -> tuple[float, float]:
    from alignkd_lab.exercises import given

    data = given("rescored_precision")
    judge = data["truth"]
    direct = judge.log_prob(data["direct_draws"]).mean().item()
    distilled = judge.log_prob(data["distilled_draws"]).mean().item()
    return direct, distilled


def mean_scores(judge: str, *draws: str) -> Callable[[], tuple[float, ...]]:
    def score() -> tuple[float, ...]:
        data = ring_to_rescore()
        return tuple(data[judge].log_prob(data[name]).mean().item() for name in draws)

    return score


# 03 -----------------------------------------------------------------------------------------------------


def rescue() -> str:
    from alignkd_lab.exercises import recorded_gaussians
    from alignkd_lab.pipelines import CONTROLS
    from alignkd_lab.records import seed_values

    found = {}
    for algorithm in ("dpo", "rlhf"):  # RLHF last: where both have a control, its figure counts
        for name, metrics in seed_values(recorded_gaussians(algorithm)).items():
            if name in CONTROLS:
                found[name] = sum(metrics["reward"].values()) / len(metrics["reward"])
    return max(found, key=found.get)


def border() -> str:
    from alignkd_lab.exercises import recorded_gaussians
    from alignkd_lab.metrics import K_A
    from alignkd_lab.records import seed_values

    found = {}
    for sharpening in (1.0, 4.0):
        for beta in (0.5, 1.0):
            values = seed_values(recorded_gaussians(sharpening=sharpening, beta=beta))[K_A]["reward"].values()
            found[f"s={sharpening:g}, beta={beta:g}"] = sum(values) / len(values)
    best = max(found, key=found.get)
    return best if found[best] > 1 else "nowhere"


def base_reference_pipeline() -> tuple:
    from alignkd_lab.pipelines import Align, Distil

    return (
        Distil("kd", teacher="base"),
        Align("kd_aligned", init="kd", anchor="base", sampler="kd"),
    )


def pipeline_with(**changes: str) -> Callable[[], tuple]:
    def make() -> tuple:
        from dataclasses import replace

        kd, align = base_reference_pipeline()
        return kd, replace(align, **changes)

    return make


def rewards_to_compare() -> dict:
    """Rewards of A-K and of its own teacher, one for each seed, of the first picture's setting."""
    import numpy as np

    from alignkd_lab.exercises import recorded_gaussians
    from alignkd_lab.records import seed_values

    values = seed_values(recorded_gaussians())
    seeds = sorted(values["align_then_kd"]["reward"])
    names = ("align_then_kd", "base_aligned")
    return {name: np.array([values[name]["reward"][seed] for seed in seeds]) for name in names}


def paired_interval() -> tuple[float, float]:
    import math

    from scipy import stats

    from alignkd_lab.exercises import given

    data = given("paired_interval")
    difference = data["align_then_kd"] - data["base_aligned"]
    seeds = len(difference)
    standard_error = difference.std(ddof=1) / math.sqrt(seeds)
    half = stats.t.ppf(0.975, seeds - 1) * standard_error
    return float(difference.mean() - half), float(difference.mean() + half)


def unpaired_interval() -> tuple[float, float]:
    from scipy import stats

    data = rewards_to_compare()
    found = stats.ttest_ind(data["align_then_kd"], data["base_aligned"], equal_var=False).confidence_interval()
    return found.low, found.high


def sd_interval() -> tuple[float, float]:
    low, high = paired_interval()
    seeds = len(rewards_to_compare()["base_aligned"])
    middle, half = (low + high) / 2, (high - low) / 2 * math.sqrt(seeds)
    return middle - half, middle + half


# 04 -----------------------------------------------------------------------------------------------------


def first_step_weight() -> str:
    from alignkd_lab import theory

    # In the first step the policy is the reference, so its margin is the reference's own.
    level, behind = (theory.dpo_weight(margin, margin, beta=0.5).item() for margin in (0.0, -20.0))
    return "half and half" if level == behind == 0.5 else "more behind" if behind > level else "less behind"


def satisfied_margin() -> float:
    import math

    weight, beta, reference_margin = 0.05, 0.5, -20.0
    # weight = sigmoid(-beta (margin - reference_margin)), solved for the margin.
    return reference_margin + math.log((1 - weight) / weight) / beta


def one_pair() -> dict:
    """Two responses to one prompt, chosen first: tokens, what each model says, and which tokens are the response.

    logits `[2, 9, 6]` of policy and reference, tokens `[2, 9]`, `is_response` `[2, 9]` (with the end token,
    without prompt and padding; it marks tokens, not the positions that predict them), beta.
    """
    generator = torch.Generator().manual_seed(4)
    lengths, prompt, end, pad = (4, 6), 2, 5, 0
    tokens = torch.randint(1, 5, (2, 9), generator=generator)
    is_response = torch.zeros(2, 9, dtype=torch.bool)
    tokens[1, :prompt] = tokens[0, :prompt]
    for row, length in enumerate(lengths):
        tokens[row, prompt + length - 1] = end
        tokens[row, prompt + length :] = pad
        is_response[row, prompt : prompt + length] = True
    logits = {
        name: torch.randn(2, 9, 6, generator=generator, dtype=torch.float64)
        for name in ("policy_logits", "reference_logits")
    }
    return {**logits, "tokens": tokens, "is_response": is_response, "beta": 0.5}


def dpo_loss() -> float:
    import torch.nn.functional as F

    from alignkd_lab.exercises import given

    data = given("dpo_loss")
    labels, mask = data["tokens"][:, 1:], data["is_response"][:, 1:]

    def margin(logits):
        # The logits at one position predict the token at the next.
        log_probs = logits[:, :-1].log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        chosen, rejected = (log_probs * mask).sum(-1)
        return chosen - rejected

    change = margin(data["policy_logits"]) - margin(data["reference_logits"])
    return -F.logsigmoid(data["beta"] * change).item()


def dpo_slip(reference: bool = True, end: bool = True, mean: bool = False, shifted: bool = True) -> Callable:
    """The loss with one thing done wrong."""

    def loss() -> float:
        data = one_pair()
        mask = data["is_response"][:, 1:] if shifted else data["is_response"][:, :-1]
        if not end:
            mask = mask & (data["tokens"][:, 1:] != 5)

        def margin(logits: Tensor) -> Tensor:
            log_probs = logits[:, :-1].log_softmax(-1).gather(-1, data["tokens"][:, 1:, None]).squeeze(-1)
            chosen, rejected = (log_probs * mask).sum(-1) / (mask.sum(-1) if mean else 1)
            return chosen - rejected

        change = margin(data["policy_logits"]) - (margin(data["reference_logits"]) if reference else 0)
        return -torch.nn.functional.logsigmoid(data["beta"] * change).item()

    return loss


# 05 -----------------------------------------------------------------------------------------------------


def layers_to_drop() -> str:
    from alignkd_lab.exercises import measured_influence

    influence = measured_influence()  # of each of the 30 layers: how much it turns the state that passes
    choices = {
        "first": influence[:14],
        "middle": influence[8:22],
        "last": influence[16:],
        "every second": influence[2:29:2],
    }
    return min(choices, key=lambda name: sum(choices[name]))


def sequences_or_tokens() -> tuple[float, float]:
    a, b, leaves = 0.6, 0.4, 4
    sequences = [a / leaves] * leaves + [b]
    squares = [p**2 for p in sequences]
    b_by_sequences = squares[-1] / sum(squares)
    a_by_tokens = a**2 / (a**2 + b**2)
    return b_by_sequences, a_by_tokens
