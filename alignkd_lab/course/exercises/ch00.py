"""Tasks of notebook 00, with their solutions and typical wrong answers."""

from __future__ import annotations

from alignkd_lab.course.exercises.tasks import Task


def order_guess() -> str:
    from alignkd_lab.course.shipped import recorded_gaussians
    from alignkd_lab.pipelines import A_K, K_A
    from alignkd_lab.stats import paired_difference

    rewards = recorded_gaussians().table("reward")
    difference = paired_difference(rewards[A_K], rewards[K_A])
    if difference.low > 0:
        return "A-K"
    return "K-A" if difference.high < 0 else "no difference"


TASKS: dict[str, Task] = {
    "order_guess": Task(
        prediction=True,
        question="Same parts, same final size: which order ends with more reward on the Gaussians?",
        options={
            "A-K": "A-K: align the teacher, then distil",
            "K-A": "K-A: distil, then align the student",
            "no difference": "no difference",
        },
        solve=order_guess,
        because="Alignment multiplies what a model still does now and then; a distilled student no longer does it.",
    )
}
