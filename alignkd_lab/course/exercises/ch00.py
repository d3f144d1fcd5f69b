"""Solutions and data of notebook 00."""

from __future__ import annotations


def order_guess() -> str:
    from alignkd_lab.course.shipped import recorded_gaussians
    from alignkd_lab.pipelines import A_K, K_A
    from alignkd_lab.stats import paired_difference

    rewards = recorded_gaussians().table("reward")
    difference = paired_difference(rewards[A_K], rewards[K_A])
    if difference.low > 0:
        return "A-K"
    return "K-A" if difference.high < 0 else "no difference"
