"""Solutions and data of notebook 03."""

from __future__ import annotations

import torch


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


def rlhf_calls() -> list[tuple]:
    """Log-probabilities [B] of samples under policy and reference, their rewards, and beta."""
    noise = torch.Generator().manual_seed(3)
    draws = [torch.randn(3, size, generator=noise, dtype=torch.float64) for size in (5, 7)]
    return [
        (log_probs.requires_grad_(), reference, rewards, beta)
        for (log_probs, reference, rewards), beta in zip(draws, (0.5, 2.0), strict=True)
    ]
