"""Tasks of notebook 03, with their solutions and typical wrong answers."""

from __future__ import annotations

import math
from collections.abc import Callable

from alignkd_lab.course.exercises.tasks import Distractor, Task


def rescue() -> str:
    from alignkd_lab.course.recorded import recorded_gaussians
    from alignkd_lab.pipelines import CONTROLS

    found = {}
    for algorithm in ("dpo", "rlhf"):  # RLHF last: where both have a control, its figure counts
        found |= recorded_gaussians(algorithm).table("reward").mean().filter(CONTROLS).to_dict()
    return max(found, key=found.get)


def boundary() -> str:
    from alignkd_lab.course.recorded import recorded_gaussians
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


def pipeline_with(**changes: str) -> Callable[[], tuple]:
    def make() -> tuple:
        from dataclasses import replace

        kd, align = base_reference_pipeline()
        return kd, replace(align, **changes)

    return make


def rewards_to_compare() -> dict:
    """Rewards of A-K and of its own teacher, one for each seed, of the first picture's setting."""
    from alignkd_lab.course.recorded import recorded_gaussians

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


def unpaired_interval() -> tuple[float, float]:
    from scipy import stats

    data = rewards_to_compare()
    found = stats.ttest_ind(data["align_then_kd"], data["base_aligned"], equal_var=False).confidence_interval()
    return found.low, found.high


def sd_interval() -> tuple[float, float]:
    data = rewards_to_compare()
    low, high = paired_interval(data)
    seeds = len(data["base_aligned"])
    middle, half = (low + high) / 2, (high - low) / 2 * math.sqrt(seeds)
    return middle - half, middle + half


TASKS: dict[str, Task] = {
    "rescue": Task(
        prediction=True,
        question="Each control changes one thing in K-A. Which one gives it back most of the reward "
        "(β = 0.5, sharpening 2)?",
        options={
            "kd_then_align_base_reference": "reference the alignment to the base, from before distillation",
            "kd_then_align_base_preferences": "draw the preference pairs from the base (DPO only)",
            "kd_then_align_high_temperature": "distil at a high temperature",
        },
        solve=rescue,
        because="A flat teacher still shows the target, so the student keeps some, and the reward can multiply it.",
        distractors=(
            Distractor(
                "kd_then_align_base_reference",
                "The base as reference allows the target, but the student still does not draw it.",
            ),
            Distractor(
                "kd_then_align_base_preferences",
                "The pairs then show the target, but a student that has forgotten it learns little from them.",
            ),
        ),
    ),
    "boundary": Task(
        prediction=True,
        question="RLHF, sharpening s, KL weight β. In which of these settings does K-A find the target after all?",
        options={
            "s=1, beta=0.5": "s = 1, β = 0.5: no sharpening, a weak penalty",
            "s=1, beta=1": "s = 1, β = 1: no sharpening, a strong penalty",
            "s=4, beta=0.5": "s = 4, β = 0.5: sharp, a weak penalty",
            "nowhere": "in none of them",
        },
        solve=boundary,
        because="Without sharpening the student keeps a trace of the target, and a weak penalty lets the reward "
        "multiply it. Recall decides, not the order as such.",
        distractors=(
            Distractor("s=1, beta=1", "The trace is there, but R/β is only half as large: below the recall threshold."),
            Distractor("s=4, beta=0.5", "The reward could win, but sharpening has left nothing to multiply."),
            Distractor("nowhere", "Look where the student is taught gently and the reward weighs most."),
        ),
    ),
    "base_reference_pipeline": Task(
        question="Write the control `kd_then_align_base_reference` as data: a tuple of a Distil and an Align stage "
        "that differs from K-A in the reference alone.",
        solve=base_reference_pipeline,
        because="The policy starts from the distilled student and draws from it; only its KL looks back at the base.",
        hint="Two stages: Distil(name, teacher='base'), then Align(name, init, reference, sampler); init and sampler "
        "name the first stage.",
        distractors=(
            Distractor(
                pipeline_with(sampler="base"),
                "The sampler has changed too. A control changes one thing: the pairs still come from the student.",
            ),
            Distractor(
                pipeline_with(init="base"),
                "This aligns the base itself, so the final model is not the small one. init is the distilled student.",
            ),
            Distractor(pipeline_with(reference="kd"), "That is K-A itself. The reference is the base."),
        ),
    ),
    "paired_interval": Task(
        question="Does A-K earn more than the aligned teacher that it was distilled from? Give the 95 % t-interval "
        "(low, high) of the difference over seeds, A-K minus teacher.",
        given=rewards_to_compare,
        solve=paired_interval,
        because="Seeds are shared, so the difference is taken seed by seed, and only its own scatter counts.",
        hint="Subtract seed by seed; then mean ± t · sd / √n, with t at 0.975 and n − 1 degrees of freedom.",
        distractors=(
            Distractor(
                unpaired_interval,
                "That is the interval of two separate groups. Both ran on the same seeds: subtract first.",
            ),
            Distractor(
                sd_interval, "That is the scatter of single seeds. The mean is surer by √n: use the standard error."
            ),
        ),
        tolerance=0.02,
    ),
}
