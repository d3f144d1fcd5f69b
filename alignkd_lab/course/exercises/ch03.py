"""Tasks of notebook 03, with their solutions and typical wrong answers."""

from __future__ import annotations

import torch

from alignkd_lab.course.exercises.tasks import Task
from alignkd_lab.course.exercises.write import Written
from alignkd_lab.nano import rlhf_loss


def rescue() -> str:
    from alignkd_lab.course.shipped import recorded_gaussians
    from alignkd_lab.pipelines import CONTROLS

    found = {}
    for algorithm in ("dpo", "rlhf"):  # RLHF last: where both have a control, its figure counts
        found |= recorded_gaussians(algorithm).table("reward").mean().filter(CONTROLS).to_dict()
    return max(found, key=found.get)


def boundary() -> str:
    from alignkd_lab.course.shipped import recorded_gaussians
    from alignkd_lab.pipelines import K_A

    found = {}
    for sharpening in (1.0, 4.0):
        for beta in (0.5, 1.0):
            run = recorded_gaussians(sharpening=sharpening, beta=beta)
            found[f"s={sharpening:g}, beta={beta:g}"] = run.table("reward")[K_A].mean()
    best = max(found, key=found.get)
    return best if found[best] > 1 else "nowhere"


def base_reference_pipeline() -> tuple:
    from alignkd_lab.pipelines import Align, Distil

    return (Distil("kd", teacher="base"), Align("kd_aligned", init="kd", reference="base", sampler="kd"))


def rewards_to_compare() -> dict:
    """Rewards of A-K and of its own teacher, one for each seed, of the first picture's setting."""
    from alignkd_lab.course.shipped import recorded_gaussians

    rewards = recorded_gaussians().table("reward")
    return {name: rewards[name].to_numpy() for name in ("align_then_kd", "base_aligned")}


def paired_interval(data: dict) -> tuple[float, float]:
    import math

    from scipy import stats

    difference = data["align_then_kd"] - data["base_aligned"]
    seeds = len(difference)
    standard_error = difference.std(ddof=1) / math.sqrt(seeds)
    half = stats.t.ppf(0.975, seeds - 1) * standard_error
    return float(difference.mean() - half), float(difference.mean() + half)


def unpaired_interval(data: dict) -> tuple[float, float]:
    from scipy import stats

    found = stats.ttest_ind(data["align_then_kd"], data["base_aligned"], equal_var=False).confidence_interval()
    return found.low, found.high


def rlhf_calls() -> list[tuple]:
    """Log-probabilities [B] of samples under policy and reference, their rewards, and beta."""
    noise = torch.Generator().manual_seed(3)
    draws = [torch.randn(3, size, generator=noise, dtype=torch.float64) for size in (5, 7)]
    return [
        (log_probs.requires_grad_(), reference, rewards, beta)
        for (log_probs, reference, rewards), beta in zip(draws, (0.5, 2.0), strict=True)
    ]


TASKS: dict[str, Task | Written] = {
    "rescue": Task(
        prediction=True,
        question="Each control changes one thing in K-A. Which one gives it back most of the reward "
        "(β = 0.5, sharpening 2)?",
        options={
            "kd_then_align_base_reference": "use the base, from before distillation, as the reference",
            "kd_then_align_base_preferences": "draw the preference pairs from the base (DPO only)",
            "kd_then_align_high_temperature": "distil at a high temperature",
        },
        solve=rescue,
        because="A flat teacher still shows the target, so the student keeps some, and the reward can multiply it.",
    ),
    "boundary": Task(
        prediction=True,
        question="Under RLHF, with sharpening s and KL weight β: in which setting does K-A find the target after all?",
        options={
            "s=1, beta=0.5": "s = 1, β = 0.5: no sharpening, a weak penalty",
            "s=1, beta=1": "s = 1, β = 1: no sharpening, a strong penalty",
            "s=4, beta=0.5": "s = 4, β = 0.5: sharp, a weak penalty",
            "nowhere": "in none of them",
        },
        solve=boundary,
        because="Without sharpening the student keeps a trace of the target, and a weak penalty lets the reward "
        "multiply it. Recall decides, not the order as such.",
    ),
    "base_reference_pipeline": Task(
        question="Write the control `kd_then_align_base_reference` as data: a tuple of a Distil and an Align stage "
        "that differs from K-A in the reference alone.",
        solve=base_reference_pipeline,
        because="The policy starts from the distilled student and draws from it; only its KL looks back at the base.",
        hint="Two stages: Distil(name, teacher='base'), then Align(name, init, reference, sampler); init and sampler "
        "name the first stage.",
        distractors={
            'sampler="kd" → sampler="base"': "The sampler has changed too. A control changes one thing: the pairs "
            "still come from the student.",
            'init="kd" → init="base"': "This aligns the base itself, so the final model is not the small one. init is "
            "the distilled student.",
            'reference="base" → reference="kd"': "That is K-A itself. The reference is the base.",
        },
    ),
    "paired_interval": Task(
        question="Does A-K earn more than the aligned teacher that it was distilled from? Give the 95 % t-interval "
        "(low, high) of the difference over seeds, A-K minus teacher.",
        given=rewards_to_compare,
        solve=paired_interval,
        because="Seeds are shared, so the difference is taken seed by seed, and only its own scatter counts.",
        hint="Subtract seed by seed; then mean ± t · sd / √n, with t at 0.975 and n − 1 degrees of freedom.",
        distractors={
            unpaired_interval: "That is the interval of two separate groups. Both ran on the same seeds: subtract "
            "first.",
            " / math.sqrt(seeds) → ": "That is the scatter of single seeds. The mean varies less, by √n: use the "
            "standard error.",
        },
        tolerance=0.02,
    ),
    "write_rlhf_loss": Written(
        question="Write rlhf_loss(log_probs, reference_log_probs, rewards, beta) from B samples of the policy, all "
        "[B]. The shaped reward is r′ = R − β (log π_θ − log π_ref), a sample's advantage A is r′ minus the batch's "
        "mean. Return −Σ A log π_θ / (B − 1), one number whose gradient treats A as a constant.",
        solve=rlhf_loss,
        inputs=rlhf_calls,
        because="Samples that earn more than the batch's mean, after the price of leaving the reference, are made "
        "likelier. What was never drawn is in no sum.",
        hint="shaped = R − β (log π_θ − log π_ref); advantage = (shaped − shaped.mean()).detach(); then minus the sum "
        "of advantage · log π_θ, over B − 1.",
        mistakes={
            "-(advantage → (advantage": "The sign is wrong. Training makes a loss small, but J is to be made large: "
            "put a minus.",
            "(log_probs - reference_log_probs) → log_probs": "The reference is missing in r′: the price is for log π_θ "
            "− log π_ref.",
            " - beta * (log_probs - reference_log_probs) → ": "The KL is missing: r′ is the reward minus β (log π_θ − "
            "log π_ref).",
            "rewards - beta → rewards + beta": "The KL has the wrong sign: this pays for leaving the reference.",
            "(shaped - shaped.mean()) → shaped": "The baseline is missing: subtract the batch's mean r′.",
            ".detach() → ": "The number is right, but not the gradient: it runs through A, too, which holds log π_θ. "
            "Use detach().",
            " / (len(advantage) - 1) → ": "That is the plain sum: divide by B − 1.",
            "(len(advantage) - 1) → len(advantage)": "Nearly. A mean over B is too small on average, since each sample "
            "is part of its own baseline: B − 1.",
        },
    ),
}
