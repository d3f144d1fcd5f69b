"""Tasks of notebook 05, with their solutions and typical wrong answers."""

from __future__ import annotations

import torch

from alignkd_lab.course.exercises.tasks import Task
from alignkd_lab.course.exercises.write import Written
from alignkd_lab.nano import kd_loss


def layers_to_drop() -> str:
    from alignkd_lab.course.explorers.layer_cuts import CUTS  # which 14 of the 30 layers go
    from alignkd_lab.course.shipped import measured_influence

    influence = measured_influence()  # of each of the 30 layers: how much it turns the state that passes
    return min(CUTS, key=lambda name: sum(influence[layer] for layer in CUTS[name]))


def kd_calls() -> list[tuple]:
    """Logits [N, V] of student and teacher, and both directions."""
    noise = torch.Generator().manual_seed(5)
    draws = [torch.randn(2, tokens, 5, generator=noise, dtype=torch.float64) for tokens in (3, 4)]
    return [
        (student.requires_grad_(), teacher, way)
        for (student, teacher), way in zip(draws, ("forward", "reverse"), strict=True)
    ]


TASKS: dict[str, Task | Written] = {
    "layers_to_drop": Task(
        prediction=True,
        question="14 of SmolLM2's 30 layers have to go. Every layer adds something to a state that passes through all "
        "of them. Which 14 together change its direction least?",
        options={
            "first": "the first 14",
            "middle": "14 in the middle",
            "last": "the last 14",
            "every second": "every second one",
        },
        solve=layers_to_drop,
        because="Measured block influence is large at both ends and small between them.",
    ),
    "write_kd_loss": Written(
        question="Write kd_loss(logits, teacher_logits, direction). Both logits are [N, V]: q is the student's softmax "
        "over V, p the teacher's. Return the mean over the N tokens of KL(p ‖ q) for direction “forward”, of "
        "KL(q ‖ p) for “reverse”; one number.",
        solve=kd_loss,
        inputs=kd_calls,
        because="A sum over the vocabulary, a mean over tokens. The distribution that stands first does the weighting.",
        hint="Take log_softmax(-1) of both. KL(p ‖ q) = Σ_a p(a) [log p(a) − log q(a)]: sum over the last axis, then "
        "the mean.",
        mistakes={
            "log_p, log_q = → log_q, log_p =": "The directions are swapped: forward is KL(p ‖ q), weighed by the "
            "teacher's p.",
            "kl(log_q, log_p) → kl(log_p, log_q)": "Both directions give KL(p ‖ q). For “reverse”, swap p and q.",
            "kl(log_p, log_q) → kl(log_q, log_p)": "Both directions give KL(q ‖ p). For “forward”, weigh by the "
            "teacher's p.",
            "return { → return -{": "The sign is wrong: a KL is never below 0.",
            ".mean() → .mean() / logits.shape[-1]": "The mean is over the vocabulary, too, so the result is V times "
            "too small. Sum over V, mean over N.",
            ".mean() → .sum()": "That is the sum over tokens. Take their mean.",
            ".mean() → ": "One KL for each token: take their mean.",
            ".log_softmax → .softmax(-1).log_softmax": "This applies softmax twice: log_softmax takes logits, but was "
            "given probabilities.",
            "log_softmax(-1) → log_softmax(0)": "The softmax is over the tokens (axis 0). A distribution is over the "
            "vocabulary, the last axis.",
            "    log_p, →     kl = lambda one, other: -(one.exp() * other).sum(-1)\n    log_p,": "That is a "
            "cross-entropy: Σ_a p(a) log p(a) is missing, which in “reverse” is the student's own.",
        },
    ),
}
